#ifndef GUESTMM_BENCH_BUDDY_LIST_ALLOCATOR_H_
#define GUESTMM_BENCH_BUDDY_LIST_ALLOCATOR_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"

namespace guestmm::bench {

// A spin lock whose wait is inlined too, so that nothing is saved for a call.
class ABSL_LOCKABLE InlinedSpinLock {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    while (locked_.exchange(true, std::memory_order_acquire)) {
      while (locked_.load(std::memory_order_relaxed)) {
      }
    }
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    locked_.store(false, std::memory_order_release);
  }

 private:
  std::atomic<bool> locked_{false};
};

// The yardstick: as little as a thread-safe allocator with the kernel's
// structure can be. Doubly linked lists of free blocks, each inserted at the
// head; a byte per page says whether a free block begins there; a stack of at
// most 378 pages for each of two vCPUs, of which 63 move at a time; spin locks.
// No checks, zones, types, watermarks or counters. Not inlined, as no library
// is.
class ListAllocator {
 public:
  static constexpr uint64_t kNone = ~uint64_t{0};

  explicit ListAllocator(uint64_t pages)
      : memory_of_links_(pages + kLargest + 1),
        memory_of_states_(pages),
        heads_(static_cast<uint32_t>(pages)) {
    for (uint32_t list = heads_; list < memory_of_links_.size(); ++list) {
      links_[list] = {.next = list, .prev = list};
    }
    for (uint64_t pfn = pages; pfn > 0;) {
      pfn -= uint64_t{1} << kLargest;
      Insert(static_cast<uint32_t>(pfn), kLargest);
    }
  }
  ListAllocator(const ListAllocator&) = delete;
  ListAllocator& operator=(const ListAllocator&) = delete;

  // A block's first page; kNone if there is none, in the stacks either.
  [[gnu::noinline]] uint64_t Allocate(int cpu, int order) {
    const uint32_t pfn = TryAllocate(cpu, order);
    return pfn != kEnd ? pfn : AllocateDrained(cpu, order);
  }

  [[gnu::noinline]] void Free(int cpu, uint64_t pfn, int order) {
    if (order != 0) {
      LockHolder hold(lock_);
      GiveBack(static_cast<uint32_t>(pfn), order);
      return;
    }
    Stack& stack = stacks_[static_cast<size_t>(cpu)];
    LockHolder hold(stack.lock);
    stack.pages[stack.count++] = static_cast<uint32_t>(pfn);
    if (stack.count == kMost) Return(stack, kBatch);
  }

  // Empties the stacks; returns the number of pages that were in them.
  size_t Drain() {
    size_t pages = 0;
    for (Stack& stack : stacks_) {
      LockHolder hold(stack.lock);
      pages += stack.count;
      Return(stack, stack.count);
    }
    return pages;
  }

  size_t MetadataBytes() const {
    return memory_of_states_.size() * (sizeof(Links) + sizeof(uint8_t));
  }

 private:
  static constexpr uint32_t kEnd = ~0U;
  static constexpr int kLargest = 10;
  static constexpr size_t kBatch = 63;
  static constexpr size_t kMost = 6 * kBatch;
  struct Links {
    uint32_t next;
    uint32_t prev;
  };
  struct alignas(64) Stack {
    InlinedSpinLock lock;
    size_t count = 0;
    std::array<uint32_t, kMost> pages;
  };

  static uint8_t Free(int order) { return static_cast<uint8_t>(0x80 | order); }
  // The entry of `links_` that is the list's head.
  uint32_t head(int order) const {
    return heads_ + static_cast<uint32_t>(order);
  }

  [[gnu::cold, gnu::noinline]] uint64_t AllocateDrained(int cpu, int order) {
    while (Drain() > 0) {
      const uint32_t pfn = TryAllocate(cpu, order);
      if (pfn != kEnd) return pfn;
    }
    return kNone;
  }
  [[gnu::always_inline]] uint32_t TryAllocate(int cpu, int order) {
    if (order != 0) {
      LockHolder hold(lock_);
      return Take(order);
    }
    Stack& stack = stacks_[static_cast<size_t>(cpu)];
    LockHolder hold(stack.lock);
    if (stack.count == 0) Refill(stack);
    return stack.count > 0 ? stack.pages[--stack.count] : kEnd;
  }

  void Insert(uint32_t pfn, int order) {
    const uint32_t list = head(order);
    const uint32_t next = links_[list].next;
    links_[pfn].prev = list;
    links_[next].prev = pfn;
    links_[pfn].next = next;
    links_[list].next = pfn;
    states_[pfn] = Free(order);
  }
  void Remove(uint32_t pfn) {
    const Links links = links_[pfn];
    links_[links.prev].next = links.next;
    links_[links.next].prev = links.prev;
    states_[pfn] = 0;
  }

  uint32_t Take(int order) {
    int found = order;
    uint32_t pfn = links_[head(found)].next;
    for (; pfn == head(found); pfn = links_[head(found)].next) {
      if (++found > kLargest) return kEnd;
    }
    Remove(pfn);
    while (found > order) {
      --found;
      Insert(pfn + (1U << found), found);
    }
    return pfn;
  }
  void GiveBack(uint32_t pfn, int order) {
    for (; order < kLargest; ++order) {
      const uint32_t buddy = pfn ^ (1U << order);
      if (states_[buddy] != Free(order)) break;
      Remove(buddy);
      pfn &= buddy;
    }
    Insert(pfn, order);
  }

  // Not inlined, so that others save fewer registers.
  [[gnu::noinline]] void Refill(Stack& stack) {
    LockHolder hold(lock_);
    while (stack.count < kBatch) {
      const uint32_t pfn = Take(0);
      if (pfn == kEnd) break;
      stack.pages[stack.count++] = pfn;
    }
  }
  // Returns the oldest `count` pages.
  [[gnu::noinline]] void Return(Stack& stack, size_t count) {
    LockHolder hold(lock_);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t buddy = stack.pages[i] ^ 1;
      __builtin_prefetch(&states_[buddy]);
      __builtin_prefetch(&links_[buddy], /*rw=*/1);
    }
    for (size_t i = 0; i < count; ++i) GiveBack(stack.pages[i], 0);
    std::copy(stack.pages.begin() + static_cast<ptrdiff_t>(count),
              stack.pages.begin() + static_cast<ptrdiff_t>(stack.count),
              stack.pages.begin());
    stack.count -= count;
  }

  std::vector<Links> memory_of_links_;
  std::vector<uint8_t> memory_of_states_;
  // By page; behind the links of the last page are the list heads.
  Links* const links_ = memory_of_links_.data();
  uint8_t* const states_ = memory_of_states_.data();
  const uint32_t heads_;
  InlinedSpinLock lock_;
  std::array<Stack, 2> stacks_;
};

}  // namespace guestmm::bench

#endif  // GUESTMM_BENCH_BUDDY_LIST_ALLOCATOR_H_
