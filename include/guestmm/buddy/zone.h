#ifndef GUESTMM_BUDDY_ZONE_H_
#define GUESTMM_BUDDY_ZONE_H_

// A zone: page frames of one node and one kind, with their own lock, free lists
// and watermarks.
//
// Behaves as Linux 5.3's buddy allocator (mm/page_alloc.c: __rmqueue_smallest,
// expand, __rmqueue_fallback, __free_one_page, __isolate_free_page), down to
// the order of its lists, since that order decides which pages are used again
// and so which memory the host gets back.

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/biased_lock.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/allocation_events.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/watermarks.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/zone_type.h"

namespace guestmm {

// Whether a request may take blocks smaller than a pageblock from another
// migratetype (ALLOC_NOFRAGMENT).
enum class Mixing : bool { kAvoid, kAllow };

// Where an isolated block goes back to: where a freed one would go; or where it
// is taken last, since what the host has must be faulted in again
// (__putback_isolated_page).
enum class ReturnTo : bool { kItsPlace, kTail };

class Zone {
 public:
  struct Options {
    ZoneType type = ZoneType::kNormal;
    int node = 0;
    // Its place among the allocator's zones.
    int index = 0;
    // Not below the page map's pageblock order.
    Order max_order = kMaxOrder;
    PlacementOptions placement = {};
  };

  // The list heads that a zone takes from its PageMap.
  static constexpr int kOrders = kMaxOrder.value() + 1;
  static constexpr size_t kListHeads = size_t{kOrders} * kMigrateTypes;

  // Without memory. `pages` must outlive this. REQUIRES: pageblock order <=
  // max_order <= kMaxOrder.
  Zone(const Options& options, PageMap& pages);
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  ZoneType type() const { return options_.type; }
  int node() const { return options_.node; }
  int index() const { return options_.index; }
  Order max_order() const { return options_.max_order; }
  // From the first of its pages to behind the last, holes and other zones'
  // pages included. A snapshot without the lock.
  PfnRange span() const {
    return {.start = Pfn(span_start_.Get()), .end = Pfn(span_end_.Get())};
  }
  // How a request that this zone is the first choice of starts: whether it
  // would rather go to another zone than mix types here.
  Mixing first_mixing() const {
    return first_mixing_.load(std::memory_order_relaxed);
  }
  void SetFirstMixing(Mixing mixing) {
    first_mixing_.store(mixing, std::memory_order_relaxed);
  }
  // The lock of everything below that says so; next to free while one thread is
  // all that uses the zone, as in virtual time. docs/concurrency.md has the
  // order.
  BiasedLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }

  // Memory -----------------------------------------------------------------

  // Gives the pages of `range` to the zone as free and movable, in the largest
  // aligned blocks, ascending, as memblock does at boot; shuffles them where
  // that is asked for. Tells the observer, if there is one; returns it to Wake,
  // or null. REQUIRES: all offline until now (CHECKed); no other zone has a
  // page in the pageblocks of its first and last page.
  FreeBlockObserver* AddMemory(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // The zone's memory, ascending, adjoining ranges as one.
  std::vector<PfnRange> ranges() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ranges_;
  }

  void SetWatermarks(const Watermarks& watermarks,
                     const LowmemReserve& reserve = {})
      ABSL_LOCKS_EXCLUDED(lock_);
  Watermarks watermarks() const {
    return {.min = PageCount(min_.Get()),
            .low = PageCount(low_.Get()),
            .high = PageCount(high_.Get())};
  }
  PageCount lowmem_reserve(ZoneType highest) const {
    return PageCount(reserve_[static_cast<size_t>(highest)].Get());
  }
  // What those leave, where there is a choice, whose first zone this is.
  PageCount low_mark() const { return PageCount(low_mark_.Get()); }

  // True if, after taking a block of `order`, more than `mark` pages would be
  // free and a block that large is there to take (zone_watermark_ok). Without
  // the lock it is a snapshot, which may miss a block that is being split or
  // merged.
  bool WatermarkOk(Order order, PageCount mark) const {
    // free - (pages - 1) > mark, without going below zero.
    if (free_pages() < mark + order.pages()) return false;
    if (order == Order(0)) return true;
    constexpr uint64_t one_of_each_type =
        1 | uint64_t{1} << kOrders | uint64_t{1} << 2 * kOrders;
    static_assert(kRequestTypes == 3);
    const uint64_t orders = kAllOrders >> order.value() << order.value();
    return (nonempty_.Get() & orders * one_of_each_type) != 0;
  }

  // Allocating and freeing -------------------------------------------------

  // Takes a block: the first of the smallest order that has one of `type`,
  // split down, its lower half kept at each step; else steals from another type
  // as the kernel does (zone_stealing.cc). None if no block is large enough.
  // Heeds no watermark. REQUIRES: order <= max_order(); a request's type.
  std::optional<Pfn> Allocate(Order order, MigrateType type,
                              Mixing mixing = Mixing::kAllow)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ToOptional(Take(order, type, mixing));
  }

  // Frees an allocated block: merges it with its buddies, puts it on its list,
  // tells the observer. Returns the observer to Wake after unlocking, or null.
  // REQUIRES: it is the head of a block allocated from this zone at `order`,
  // and not pinned (CHECKed: a double free ends the process).
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // For per-CPU lists: takes up to blocks.size() blocks, which are then cached;
  // returns how many (rmqueue_bulk).
  size_t AllocateBulk(std::span<Pfn> blocks, Order order, MigrateType type,
                      Mixing mixing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // A block on its way back from a per-CPU list, with its list's type.
  struct CachedBlock {
    Pfn pfn;
    Order order;
    MigrateType type = MigrateType::kMovable;
  };
  // Fetches what FreeBulk(blocks) will change: most of a random free is waiting
  // for the entries around its buddies. Better without the lock.
  void PrefetchForFree(std::span<const CachedBlock> blocks) const;
  // Frees cached blocks, in order (free_pcppages_bulk). As Free.
  [[nodiscard]] FreeBlockObserver* FreeBulk(std::span<const CachedBlock> blocks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Following someone else's allocator --------------------------------------

  // Takes exactly the block at `pfn`, out of the free block that it is in, of
  // which the rest goes back in halves. False, with no effect, if it is not all
  // in one free block. REQUIRES: aligned; order <= max_order(); a request's
  // type.
  bool TakeAt(Pfn pfn, Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Puts the block at `pfn` back as if it had not been taken: an observer hears
  // of it only if it heard of that (TakenBlocks::kTell). Returns as Free.
  // REQUIRES: allocated at `order` (CHECKed).
  [[nodiscard]] FreeBlockObserver* PutBackAt(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Makes the pages of a block one allocated block, whatever blocks they were
  // allocated as: what was larger is split (split_page), what was smaller is
  // one from here on. False, with no effect, if a page of it is not allocated.
  // REQUIRES: aligned; order <= max_order(); none of it is pinned.
  bool Reshape(Pfn pfn, Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Isolating for the host --------------------------------------------------

  // What was done here by the functions below, for whoever measures it: free
  // blocks looked for, isolated, returned.
  struct ReportingWork {
    uint64_t looks = 0;
    uint64_t isolated = 0;
    uint64_t returned = 0;
  };
  ReportingWork reporting_work() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return reporting_work_;
  }

  struct Block {
    Pfn pfn;
    Order order;

    bool operator==(const Block&) const = default;
  };

  // The order of the free block that starts at `pfn`; none if none does.
  std::optional<Order> FreeBlockAt(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The free block that `pfn` is in; none if it is in none.
  std::optional<Block> FreeBlockAround(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The first block on the free list of `order` and `type`, which is taken
  // next, and the one after `pfn`; none at its end. REQUIRES: `pfn` is on that
  // list (CHECKed, but for the type).
  std::optional<Pfn> FirstFreeBlock(Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  std::optional<Pfn> NextFreeBlock(Pfn pfn, Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Makes `first` the list's first block, and what was before it its last
  // (list_rotate_to_front). REQUIRES: as NextFreeBlock.
  void RotateFreeList(Order order, MigrateType type, Pfn first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Whether the list has a block: a snapshot without the lock.
  bool HasFreeBlock(Order order, MigrateType type) const {
    return (nonempty_.Get() >> Bit(order, type) & 1) != 0;
  }

  // Whether the free block at `pfn` is marked: for whoever reports, the host
  // has it. False if none starts there.
  bool IsReported(Pfn pfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return pages_.IsReported(pfn);
  }
  // Marks it. The mark is gone as soon as the block is taken, split or merged;
  // a move to another list leaves it (Linux 5.7, PageReported). REQUIRES:
  // FreeBlockAt(pfn) (CHECKed).
  void MarkReported(Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Takes the free block at `pfn` off its list, whole. None, with no effect, if
  // that would leave no more than the min watermark free, or if the block is on
  // its way offline. Of a block of half a pageblock or more the pageblocks
  // become movable (__isolate_free_page).
  // REQUIRES: FreeBlockAt(pfn).
  std::optional<IsolatedBlock> Isolate(Pfn pfn)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Puts an isolated block back, merged with its buddies. Does not tell the
  // observer (v12 patch 1/2, __return_isolated_page). Returns the block's order
  // on the free list, larger than its own if it merged.
  // REQUIRES: &block.zone() == this.
  Order Return(IsolatedBlock block, ReturnTo to = ReturnTo::kItsPlace)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The migratetype of the pageblock that holds `pfn`. REQUIRES for both: it is
  // this zone's.
  MigrateType pageblock_type(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return pages_.pageblock(pfn).type;
  }
  // REQUIRES: neither `type` nor the present one is kIsolate. Free blocks stay
  // on the lists they are on (set_pageblock_migratetype).
  void SetPageblockType(Pfn pfn, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Tells `observer` of every block freed from now on whose merged order is at
  // least `min_order`, and of what is taken off the free lists if it asks for
  // that; null for no one. It must live until calls that were in the allocator
  // when it was replaced have returned.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0),
                   TakenBlocks taken = TakenBlocks::kIgnore)
      ABSL_LOCKS_EXCLUDED(lock_);

  // Going offline -----------------------------------------------------------
  // REQUIRES for all: `range` is aligned to blocks of max_order().

  // Makes all pageblocks of `range` kIsolate: what is free there, or becomes
  // so, cannot be allocated any more, and does not count as free. Returns what
  // types they had (start_isolate_page_range).
  std::vector<MigrateType> IsolatePageblocks(PfnRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Undoes it, with what it returned (undo_isolate_page_range).
  void RestorePageblocks(PfnRange range, std::span<const MigrateType> types)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // What of `range` is not free: the first block that is allocated or cached,
  // and the first that is isolated for the host.
  struct Busy {
    std::optional<Pfn> in_use;
    std::optional<Pfn> isolated;
  };
  Busy FindBusy(PfnRange range) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Takes `range` out of the zone. REQUIRES: its pageblocks are kIsolate, and
  // nothing in it is busy.
  void RemoveMemory(PfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Counts ------------------------------------------------------------------
  // Snapshots without the lock.

  // Pages given to the zone; free to be allocated; free but on their way
  // offline; isolated for the host.
  PageCount managed_pages() const { return PageCount(managed_pages_.Get()); }
  PageCount free_pages() const { return PageCount(free_pages_.Get()); }
  PageCount offlining_pages() const {
    return PageCount(offlining_pages_.Get());
  }
  PageCount isolated_pages() const { return PageCount(isolated_pages_.Get()); }
  // Free blocks of `order`, of all types (nr_free).
  uint64_t free_blocks(Order order) const {
    return blocks_[static_cast<size_t>(order.value())].Get();
  }
  // What was allocated and freed here, but not by way of per-CPU lists.
  AllocationEvents events() const {
    return {.allocations = allocations_.Get(),
            .allocated_pages = allocated_pages_.Get(),
            .freed_pages = freed_pages_.Get()};
  }
  // Times that a request was served from another type's blocks, and pageblocks
  // that changed their type for it.
  uint64_t steals() const { return steals_.Get(); }
  uint64_t stolen_pageblocks() const { return stolen_pageblocks_.Get(); }

  // Calls `visit(pfn)` for each block on the free list of `order` and `type`,
  // first to last.
  template <typename Visitor>
  void ForEachFreeBlock(Order order, MigrateType type, Visitor visit) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    const PageMap::Index list = List(order, type);
    const PageMap::Lists lists = pages_.lists();
    for (PageMap::Index at = lists.First(list); at != list;
         at = lists.Next(at)) {
      visit(Pfn(at));
    }
  }
  // Free blocks of `order` and `type`, counted one by one.
  uint64_t CountFreeBlocks(Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    uint64_t count = 0;
    ForEachFreeBlock(order, type, [&](Pfn) { ++count; });
    return count;
  }
  // How many pageblocks are of each type, those with at least one page.
  std::array<uint64_t, kMigrateTypes> PageblocksByType() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Walks all lists and pages; Internal, naming the invariant of
  // docs/invariants.md and the page, if one does not hold.
  absl::Status CheckInvariants() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // For the allocator's front door, which has its own way to say "none".
  Pfn Take(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

 private:
  static constexpr uint64_t kAllOrders = (uint64_t{1} << kOrders) - 1;

  static constexpr int Bit(Order order, MigrateType type) {
    return static_cast<int>(type) * kOrders + order.value();
  }
  PageMap::Index List(Order order, MigrateType type) const {
    return lists_ + static_cast<PageMap::Index>(Bit(order, type));
  }
  bool IsOurs(Pfn pfn) const {
    return pages_.pageblock(pfn).zone == options_.index;
  }
  Order pageblock_order() const { return pages_.pageblock_order(); }

  // Who reads the counters without the lock sees no dip while a block is split
  // or merged.
  class ListChange;

  // Takes and splits the smallest block of `type` that will do, or kNoPfn. The
  // caller writes its entry.
  Pfn TakeSmallest(ListChange& change, Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The same, after stealing if need be. Leaves its pages counted as free.
  Pfn TakeBlock(ListChange& change, Order order, MigrateType type,
                Mixing mixing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Moves a block of another type to the lists of `type`, where TakeSmallest
  // will find it. False if there is none.
  bool Steal(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void StealBlock(ListChange& change, Pfn pfn, Order order, MigrateType type,
                  bool whole_pageblock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Moves all free blocks of the pageblock of `pfn` to the lists of `type`.
  struct Moved {
    PageCount free;     // moved
    PageCount movable;  // in use by what was asked for as movable
  };
  Moved MovePageblock(ListChange& change, Pfn pfn, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Ends the process, with what is wrong.
  [[gnu::cold]] void RejectFree(Pfn pfn, Order order) const;
  // The order of the free block that starts at `pfn`; ends the process if none
  // does.
  Order OrderOfFree(Pfn pfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void CheckListed(Pfn pfn, Order order) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // A block that came back: merged, listed, and the observer told.
  FreeBlockObserver* FreeBlock(ListChange& change, Pfn pfn, Order order,
                               MigrateType type, bool to_tail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Merges and lists a block that is in no one's hands, at the tail or where it
  // belongs; what it became.
  Block Merge(ListChange& change, Pfn pfn, Order order, MigrateType type,
              bool to_tail) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Whether the block at `pfn`, of at least a pageblock, may merge with its
  // buddy there.
  bool MayMergePageblocks(Pfn pfn, Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  ListEnd EndFor(Pfn pfn, Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Shuffle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  void UpdateSpan() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // FPI_TO_TAIL of 6.1, for memory that is cold.
  bool cold_to_tail() const {
    return options_.placement.rules == KernelVersion::kV6_1;
  }

  absl::Status CheckFreeLists() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status CheckBlocks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const Options options_;
  std::atomic<Mixing> first_mixing_{Mixing::kAllow};
  PageMap& pages_;
  // Of each type all orders, ascending.
  const PageMap::Index lists_;
  mutable BiasedLock lock_;
  // Above every order while there is no observer, so that the hook costs one
  // compare.
  int observer_min_order_ ABSL_GUARDED_BY(lock_) = kOrders;
  // The observer, if it is told of blocks taken.
  FreeBlockObserver* taken_observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  // While none is on its way offline, merges need not look at types.
  uint32_t isolate_pageblocks_ ABSL_GUARDED_BY(lock_) = 0;
  FreeBlockObserver* observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  // A bit for each list that has a block.
  Counter nonempty_;
  static_assert(kListHeads <= 64);
  Counter free_pages_;
  std::array<Counter, kOrders> blocks_;
  Counter offlining_pages_;
  Counter isolated_pages_;
  Counter managed_pages_;
  Counter allocations_;
  Counter allocated_pages_;
  Counter freed_pages_;
  Counter steals_;
  Counter stolen_pageblocks_;
  Counter min_;
  Counter low_;
  Counter high_;
  std::array<Counter, kZoneTypes> reserve_;
  Counter low_mark_;
  Counter span_start_;
  Counter span_end_;
  mutable ReportingWork reporting_work_ ABSL_GUARDED_BY(lock_);
  std::vector<PfnRange> ranges_ ABSL_GUARDED_BY(lock_);
  std::optional<Random> shuffle_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONE_H_
