#ifndef GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_
#define GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_

// The allocators that allocator_bench.cc compares, with one interface: 4 GiB of
// pages without memory behind them, two vCPUs.
//
//   Guestmm         the library (PageAllocator) with the per-CPU lists of Linux
//                   5.3
//   Guestmm61       the same with those of 6.1, of orders 0 to 3 and 9
//   Guestmm612      the same with those of 6.12, whose size follows the load
//   Textbook        a plain buddy of lists over 64-byte page structs, no locks
//   LockedTextbook  the same behind one lock, for the rows of two threads
//   Nothing         no allocator: the cost of the loops

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::bench {

inline constexpr uint64_t kPages = 4 * kGiB / kPageSize;
inline constexpr uint64_t kNoPage = ~uint64_t{0};

template <KernelVersion kPerCpuLists>
class AdaptiveWith {
 public:
  uint64_t Allocate(int cpu, int order) {
    const std::optional<Pfn> pfn = allocator_->Allocate(cpu, Order(order));
    return pfn ? pfn->value() : kNoPage;
  }
  void Free(int cpu, uint64_t pfn, int order) {
    allocator_->Free(cpu, Pfn(pfn), Order(order));
  }
  void Drain() { allocator_->DrainPerCpuPages(); }
  uint64_t MetadataBytes() const {
    return allocator_->pages().ResidentBytes().value_or(0);
  }

 private:
  // No watermarks, so that all of the memory can be allocated.
  std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(kPages), Pfn(2 * kPages)}},
                             .cpus = 2,
                             .min_free_kbytes = 0,
                             .per_cpu_lists = kPerCpuLists})
          .value();
};
using Guestmm = AdaptiveWith<KernelVersion::kV5_3>;
using Guestmm61 = AdaptiveWith<KernelVersion::kV6_1>;
using Guestmm612 = AdaptiveWith<KernelVersion::kV6_12>;

class Textbook {
 public:
  Textbook() : pages_(kPages) {
    for (Page& list : lists_) list.next = list.prev = &list;
    for (uint64_t pfn = 0; pfn < kPages; pfn += uint64_t{1} << kLargest) {
      Push(pfn, kLargest);
    }
  }
  Textbook(const Textbook&) = delete;
  Textbook& operator=(const Textbook&) = delete;

  uint64_t Allocate(int, int order) {
    int found = order;
    while (found <= kLargest && list(found).next == &list(found)) ++found;
    if (found > kLargest) return kNoPage;
    Page* const page = list(found).next;
    Remove(*page);
    const auto pfn = static_cast<uint64_t>(page - pages_.data());
    while (found > order) {
      --found;
      Push(pfn + (uint64_t{1} << found), found);
    }
    return pfn;
  }

  void Free(int, uint64_t pfn, int order) {
    while (order < kLargest) {
      Page& buddy = pages_[pfn ^ (uint64_t{1} << order)];
      if (!buddy.free || buddy.order != order) break;
      Remove(buddy);
      pfn &= ~(uint64_t{1} << order);
      ++order;
    }
    Push(pfn, order);
  }

  void Drain() {}
  static constexpr uint64_t MetadataBytes() { return kPages * sizeof(Page); }

 private:
  static constexpr int kLargest = kMaxOrder.value();

  struct alignas(64) Page {
    Page* next = nullptr;
    Page* prev = nullptr;
    int order = 0;
    bool free = false;
  };
  static_assert(sizeof(Page) == 64);

  Page& list(int order) { return lists_[static_cast<size_t>(order)]; }
  void Push(uint64_t pfn, int order) {
    Page& page = pages_[pfn];
    Page& head = list(order);
    page.order = order;
    page.free = true;
    page.next = head.next;
    page.prev = &head;
    head.next->prev = &page;
    head.next = &page;
  }
  static void Remove(Page& page) {
    page.free = false;
    page.prev->next = page.next;
    page.next->prev = page.prev;
  }

  std::vector<Page> pages_;
  std::array<Page, kLargest + 1> lists_;
};

class LockedTextbook {
 public:
  uint64_t Allocate(int cpu, int order) {
    LockHolder hold(lock_);
    return textbook_.Allocate(cpu, order);
  }
  void Free(int cpu, uint64_t pfn, int order) {
    LockHolder hold(lock_);
    textbook_.Free(cpu, pfn, order);
  }
  void Drain() {}
  static constexpr uint64_t MetadataBytes() {
    return Textbook::MetadataBytes();
  }

 private:
  SpinLock lock_;
  Textbook textbook_ ABSL_GUARDED_BY(lock_);
};

class Nothing {
 public:
  uint64_t Allocate(int cpu, int order) {
    uint64_t pfn = kPages / 2 * static_cast<uint64_t>(cpu);
    benchmark::DoNotOptimize(pfn);
    benchmark::DoNotOptimize(order);
    return pfn;
  }
  void Free(int cpu, uint64_t pfn, int order) {
    benchmark::DoNotOptimize(cpu);
    benchmark::DoNotOptimize(pfn);
    benchmark::DoNotOptimize(order);
  }
  void Drain() {}
  static constexpr uint64_t MetadataBytes() { return 0; }
};

}  // namespace guestmm::bench

#endif  // GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_
