#ifndef GUESTMM_BUDDY_ZONE_H_
#define GUESTMM_BUDDY_ZONE_H_

// A zone: a run of page frames with its own lock, free lists and watermarks.
//
// Behaves as Linux 5.3's buddy allocator (mm/page_alloc.c: __rmqueue_smallest,
// expand, __free_one_page, __isolate_free_page), down to the order of its
// lists, since that order decides which pages are used again and so which
// memory the host gets back.

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/watermarks.h"

namespace guestmm {

// By the addresses that old devices could reach.
enum class ZoneType {
  kDma32,   // below 4 GiB
  kNormal,  // from 4 GiB
};

// "DMA32", "Normal": the kernel's names.
std::string_view Name(ZoneType type);

class Zone {
 public:
  struct Options {
    ZoneType type = ZoneType::kNormal;
    // Its place among the allocator's zones.
    int index = 0;
    // The pages that may belong to it, holes included.
    PfnRange span;
    Order max_order = kMaxOrder;
  };

  // The list heads that a zone takes from its PageMap.
  static constexpr size_t kListHeads = kMaxOrder.value() + 1;

  // `pages` must outlive this. REQUIRES: span.end <= pages.end(); max_order <=
  // kMaxOrder.
  Zone(const Options& options, PageMap& pages);
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  ZoneType type() const { return options_.type; }
  int index() const { return options_.index; }
  PfnRange span() const { return options_.span; }
  Order max_order() const { return options_.max_order; }
  // The lock of everything below that says so. docs/concurrency.md has the
  // order.
  SpinLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }

  // Gives the pages of `range` to the zone as free, in the largest aligned
  // blocks, ascending, as memblock does at boot. Does not tell the observer.
  // REQUIRES: within the span, all offline until now.
  void AddMemory(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  void SetWatermarks(const Watermarks& watermarks) ABSL_LOCKS_EXCLUDED(lock_);
  Watermarks watermarks() const {
    return {.min = watermark_min_.Get(),
            .low = watermark_low_.Get(),
            .high = watermark_high_.Get()};
  }

  // True if, after taking a block of `order`, more than `mark` pages would be
  // free and a block that large is there to take (zone_watermark_ok). Without
  // the lock it is a snapshot, which may miss a block that is being split or
  // merged.
  bool WatermarkOk(Order order, PageCount mark) const {
    // free - (pages - 1) > mark, without going below zero.
    if (free_pages() < mark + order.pages()) return false;
    if (order == Order(0)) return true;
    int larger = order.value();
    while (larger <= max_order().value() && free_blocks(Order(larger)) == 0) {
      ++larger;
    }
    return larger <= max_order().value();
  }

  // Takes a block: the first of the smallest order that has one, split down,
  // its lower half kept at each step. None if no block is large enough. Heeds
  // no watermark. REQUIRES: order <= max_order().
  std::optional<Pfn> Allocate(Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ToOptional(TakeBlock(order, PageState::kAllocated));
  }

  // Frees an allocated block: merges it with its buddies, puts it on its list,
  // tells the observer. Returns the observer to Wake after unlocking, or null.
  // REQUIRES: it is the head of a block allocated from this zone at `order`
  // (CHECKed: a double free ends the process).
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return FreeFrom(PageState::kAllocated, pfn, order);
  }

  // For per-CPU lists: takes up to pages.size() single pages, which are then
  // cached; returns how many (rmqueue_bulk).
  size_t AllocateBulk(std::span<Pfn> pages)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Frees cached pages, in order (free_pcppages_bulk). As Free.
  [[nodiscard]] FreeBlockObserver* FreeBulk(std::span<const Pfn> pages)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The order of the free block that starts at `pfn`; none if none does.
  std::optional<Order> FreeBlockAt(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Takes the free block at `pfn` off its list, whole. None, with no effect, if
  // that would leave no more than the min watermark free
  // (__isolate_free_page).
  // REQUIRES: FreeBlockAt(pfn).
  std::optional<IsolatedBlock> Isolate(Pfn pfn)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Puts an isolated block back, merged with its buddies. Does not tell the
  // observer (v12 patch 1/2, __return_isolated_page). Returns the block's order
  // on the free list, larger than its own if it merged.
  // REQUIRES: &block.zone() == this.
  Order Return(IsolatedBlock block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Tells `observer` of every block freed from now on whose merged order is at
  // least `min_order`; null for no one. It must live until calls that were in
  // the allocator when it was replaced have returned.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0))
      ABSL_LOCKS_EXCLUDED(lock_);

  // Pages given to the zone; on its free lists; isolated. Snapshots without the
  // lock.
  PageCount managed_pages() const { return managed_pages_.Get(); }
  PageCount free_pages() const { return free_pages_.Get(); }
  PageCount isolated_pages() const { return isolated_pages_.Get(); }
  // Blocks on the free list of `order`. A snapshot without the lock.
  uint64_t free_blocks(Order order) const {
    return areas_[static_cast<size_t>(order.value())].blocks.Get().value();
  }

  // Calls `visit(pfn)` for each block on the free list of `order`, first to
  // last.
  template <typename Visitor>
  void ForEachFreeBlock(Order order, Visitor visit) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    const PageMap::Index list = area(order).list;
    for (PageMap::Index at = pages_.First(list); at != list;
         at = pages_.Next(at)) {
      visit(Pfn(at));
    }
  }

  // Walks all lists and pages; Internal, naming the invariant of
  // docs/invariants.md and the page, if one does not hold.
  absl::Status CheckInvariants() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

 private:
  // Written under the zone's lock, readable without.
  class Counter {
   public:
    PageCount Get() const {
      return PageCount(value_.load(std::memory_order_relaxed));
    }
    void Set(PageCount count) {
      value_.store(count.value(), std::memory_order_relaxed);
    }
    void Add(PageCount count) { Set(Get() + count); }
    void Subtract(PageCount count) { Set(Get() - count); }

   private:
    std::atomic<uint64_t> value_{0};
  };

  // The free blocks of one order. Migratetypes will give it a list each.
  struct FreeArea {
    PageMap::Index list = 0;
    Counter blocks;
  };

  FreeArea& area(Order order) {
    return areas_[static_cast<size_t>(order.value())];
  }
  const FreeArea& area(Order order) const {
    return areas_[static_cast<size_t>(order.value())];
  }

  // These two leave free_pages_ to their callers, which change it once, by what
  // came or went: who reads it without the lock sees no dip while a block is
  // split or merged.
  void AddToList(Pfn pfn, Order order, bool at_tail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void TakeOffList(Pfn pfn, Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool IsFreeBlock(Pfn pfn, Order order) const {
    return span().Contains(pfn) && pages_.Is(pfn, PageState::kFree, order);
  }
  // The block's first page, or kNoPfn.
  Pfn TakeBlock(Order order, PageState state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  FreeBlockObserver* FreeFrom(PageState from, Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Merges and lists a block that is in no one's hands; what it became.
  struct Block {
    Pfn pfn;
    Order order;
  };
  Block Merge(Pfn pfn, Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status CheckFreeLists() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const Options options_;
  PageMap& pages_;
  mutable SpinLock lock_;
  std::array<FreeArea, kListHeads> areas_;
  Counter free_pages_;
  Counter isolated_pages_;
  Counter managed_pages_;
  Counter watermark_min_;
  Counter watermark_low_;
  Counter watermark_high_;
  FreeBlockObserver* observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  // Above every order while there is no observer, so that the hook costs one
  // compare.
  int observer_min_order_ ABSL_GUARDED_BY(lock_) = kListHeads;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONE_H_
