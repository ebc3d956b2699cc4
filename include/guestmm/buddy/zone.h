#ifndef GUESTMM_BUDDY_ZONE_H_
#define GUESTMM_BUDDY_ZONE_H_

// A zone: page frames of one node and one type, with a lock, free lists and
// watermarks of their own.
//
// Behaves like Linux 5.3's buddy allocator (mm/page_alloc.c:
// __rmqueue_smallest, expand, __rmqueue_fallback, __free_one_page,
// __isolate_free_page), down to the order of the free lists: that order decides
// which pages are reused, and so which memory the host can reclaim.

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
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/allocation_events.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/watermarks.h"
#include "guestmm/buddy/zone_use_observer.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

class Zone {
 public:
  struct Options {
    ZoneType type = ZoneType::kNormal;
    int node = 0;
    // The index among the allocator's zones.
    int index = 0;
    // At least the page map's pageblock order.
    Order max_order = kMaxOrder;
    PlacementOptions placement = {};
    // 6.12: per-CPU lists shrink while the zone is short of memory (pressure).
    bool watches_high = false;
  };

  // The list heads that a zone makes in its PageMap.
  static constexpr int kOrders = kMaxOrder.value() + 1;
  static constexpr size_t kListHeads = size_t{kOrders} * kMigrateTypes;

  // Makes a zone without memory. `pages` must outlive it. REQUIRES: pageblock
  // order <= max_order <= kMaxOrder (CHECKed).
  Zone(const Options& options, PageMap& pages);
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  ZoneType type() const { return options_.type; }
  int node() const { return options_.node; }
  int index() const { return options_.index; }
  Order max_order() const { return options_.max_order; }
  // From the first page of the zone to one past its last, including holes and
  // other zones' pages. A snapshot; takes no lock.
  PfnRange span() const {
    return {.start = Pfn(span_start_.Get()), .end = Pfn(span_end_.Get())};
  }
  // The Mixing that a request first tries if this is its preferred zone:
  // kAvoid prefers another zone of the node to mixing types here.
  Mixing first_mixing() const {
    return first_mixing_.load(std::memory_order_relaxed);
  }
  void SetFirstMixing(Mixing mixing) {
    first_mixing_.store(mixing, std::memory_order_relaxed);
  }
  // Guards what is annotated with lock_ below. Nearly free while only one
  // thread uses the zone, as in virtual time. For the lock order see
  // docs/concurrency.md.
  BiasedLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }

  // Memory -----------------------------------------------------------------

  // Adds the pages of `range` to the zone, free and movable, in the largest
  // aligned blocks, ascending, as memblock does at boot; then shuffles the free
  // list if placement.shuffle_seed is set. Notifies the observer. Returns the
  // observer if the caller must Wake it, else null. REQUIRES: the pages are
  // offline, and no other zone has a page in their pageblocks (CHECKed).
  FreeBlockObserver* AddMemory(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // The zone's memory: ascending, with adjacent ranges merged.
  std::vector<PfnRange> ranges() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ranges_;
  }

  void SetWatermarks(const Watermarks& watermarks,
                     const LowmemReserve& reserve = {})
      ABSL_LOCKS_EXCLUDED(lock_);
  Watermarks watermarks() const;
  PageCount lowmem_reserve(ZoneType highest) const {
    return PageCount(reserve_[static_cast<size_t>(highest)].Get());
  }
  // The mark for requests whose preferred zone this is: the low watermark plus
  // lowmem_reserve(type()); where NoteBelowHigh would set kBelowHigh, the high
  // watermark plus that.
  PageCount fast_mark() const { return PageCount(fast_mark_.Get()); }

  // What per-CPU lists need to know (6.12). kNone or kReclaimActive, unless
  // Options::watches_high is set.
  ZonePressure pressure() const {
    if (reclaim_active_.load(std::memory_order_relaxed))
      return ZonePressure::kReclaimActive;
    return below_high_.load(std::memory_order_relaxed)
               ? ZonePressure::kBelowHigh
               : ZonePressure::kNone;
  }
  // Sets kBelowHigh if a request finds too little above the high watermark plus
  // `reserve` (get_page_from_freelist).
  void NoteBelowHigh(Order order, PageCount reserve) ABSL_LOCKS_EXCLUDED(lock_);
  // Ends kBelowHigh if the zone is above its high watermark, after lists
  // returned pages to it (free_unref_page_commit).
  void NoteReturned() ABSL_LOCKS_EXCLUDED(lock_);
  void SetReclaimActive(bool active) {
    reclaim_active_.store(active, std::memory_order_relaxed);
  }

  // True if more than `mark` pages would stay free after taking a block of
  // `order`, and a free block of at least that order exists
  // (zone_watermark_ok). A snapshot if called without the lock: may miss a
  // block that is being split or merged.
  bool WatermarkOk(Order order, PageCount mark) const {
    // free - (pages - 1) > mark, without going below zero.
    if (free_pages() <= mark + (order.pages() - PageCount(1))) return false;
    if (order == Order(0)) return true;
    constexpr uint64_t one_of_each_type =
        1 | uint64_t{1} << kOrders | uint64_t{1} << 2 * kOrders;
    static_assert(kRequestTypes == 3);
    const uint64_t orders = kAllOrders >> order.value() << order.value();
    return (nonempty_.Get() & orders * one_of_each_type) != 0;
  }

  // Allocating and freeing -------------------------------------------------

  // Allocates the first block of `type` of the smallest sufficient order; a
  // larger block is split, keeping the lower half at each step. If there is
  // none, steals from another type as the kernel does (zone_stealing.cc). None
  // if no block is large enough. Ignores watermarks. REQUIRES: order <=
  // max_order(); `type` is one of the kRequestTypes.
  std::optional<Pfn> Allocate(Order order, MigrateType type,
                              Mixing mixing = Mixing::kAllow)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ToOptional(Take(order, type, mixing));
  }

  // Frees an allocated block: merges it with its buddies, inserts it into its
  // free list, notifies the observer. Returns the observer if the caller must
  // Wake it after unlocking, else null. A pinned block stays allocated until
  // its last pin is dropped. REQUIRES: `pfn` is the head of a block allocated
  // from this zone at `order` (CHECKed: a double free ends the process).
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Refills a per-CPU list: takes up to blocks.size() blocks, which become
  // cached; returns their number (rmqueue_bulk).
  size_t AllocateBulk(std::span<Pfn> blocks, Order order, MigrateType type,
                      Mixing mixing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Blocks from a per-CPU list, newest first, with the type of that list; none:
  // each with the type of its pageblock.
  struct CachedRun {
    std::span<const Pfn> blocks;
    Order order;
    std::optional<MigrateType> type = MigrateType::kMovable;
  };
  // Prefetches the entries that FreeBulk(runs) will write, for which frees at
  // random mostly wait. Best called without the lock.
  void PrefetchForFree(std::span<const CachedRun> runs) const;
  // Frees cached blocks, run by run, the oldest of each first
  // (free_pcppages_bulk). Returns as Free. REQUIRES: no run is empty.
  [[nodiscard]] FreeBlockObserver* FreeBulk(std::span<const CachedRun> runs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // As FreeBulk, of a run of one block.
  [[nodiscard]] FreeBlockObserver* FreeCached(const CachedRun& run)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Following a recorded allocator ------------------------------------------

  struct Block {
    Pfn pfn;
    Order order;

    bool operator==(const Block&) const = default;
  };

  // Allocates exactly the block at `pfn`: splits the free block that contains
  // it and frees the other halves. The same for those behind it, `most` in all,
  // as far as they can be taken together. Returns their number; 0 unless one
  // free block contains all of the first. Ignores watermarks. REQUIRES:
  // aligned; order <= max_order(); `type` as in Allocate; most > 0.
  uint64_t TakeAt(Pfn pfn, Order order, MigrateType type, uint64_t most = 1)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Undoes TakeAt: frees the block at `pfn`, and notifies the observer only if
  // it was notified of the allocation (TakenBlocks::kTell). Returns as Free.
  // REQUIRES: as Free.
  [[nodiscard]] FreeBlockObserver* PutBackAt(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Makes one allocated block of pages that were allocated in blocks of other
  // sizes: splits a larger block (split_page), joins smaller ones. False, with
  // no effect, if any of the pages is not allocated. REQUIRES: aligned; order
  // <= max_order(); no page is pinned.
  bool Reshape(Pfn pfn, Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Isolating for the host --------------------------------------------------

  // The order of the free block whose head is `pfn`; none if there is none.
  std::optional<Order> FreeBlockAt(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The free block that contains `pfn`; none if there is none.
  std::optional<Block> FreeBlockAround(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The first block on the free list of `order` and `type`, which is allocated
  // next, and the block after `pfn`; none at the end of the list. REQUIRES:
  // `pfn` is on that list (its order is CHECKed, its type is not).
  std::optional<Pfn> FirstFreeBlock(Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  std::optional<Pfn> NextFreeBlock(Pfn pfn, Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Rotates the list so that `first` is its first block
  // (list_rotate_to_front). REQUIRES: as NextFreeBlock.
  void RotateFreeList(Order order, MigrateType type, Pfn first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // True if the list is not empty. A snapshot if called without the lock.
  bool HasFreeBlock(Order order, MigrateType type) const {
    return (nonempty_.Get() >> Bit(order, type) & 1) != 0;
  }

  // True if `pfn` is the head of a free block that is marked as reported: the
  // host may have discarded it.
  bool IsReported(Pfn pfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return pages_.IsReported(pfn);
  }
  // Marks the free block at `pfn` as reported. Taking, splitting or merging the
  // block clears the mark; moving it to another list keeps it (Linux 5.7,
  // PageReported). REQUIRES: FreeBlockAt(pfn) (CHECKed).
  void MarkReported(Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Takes the whole free block at `pfn` off its list. None, with no effect, if
  // at most the min watermark would stay free, or if the block is being
  // offlined. If the block is at least half a pageblock, its pageblocks become
  // movable (__isolate_free_page). REQUIRES: FreeBlockAt(pfn) (CHECKed).
  std::optional<IsolatedBlock> Isolate(Pfn pfn)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Returns an isolated block to the free lists and merges it with its buddies,
  // without notifying the observer (v12 patch 1/2, __return_isolated_page).
  // Returns the order of the merged block. REQUIRES: &block.zone() == this
  // (CHECKed).
  Order Return(IsolatedBlock block, ReturnTo to = ReturnTo::kItsPlace)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The migratetype of the pageblock that contains `pfn`. REQUIRES for both:
  // the pageblock is in this zone.
  MigrateType pageblock_type(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return pages_.pageblock(pfn).type;
  }
  // Leaves free blocks on their lists (set_pageblock_migratetype), so Z9
  // ends with the first change. REQUIRES: neither `type` nor the current type
  // is kIsolate.
  void SetPageblockType(Pfn pfn, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Notifies `observer` of each block freed from now on whose merged order is
  // at least `min_order`, and, with kTell, of each block taken off the free
  // lists. Null for no observer. An observer must outlive all calls that were
  // inside the allocator when it was replaced.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0),
                   TakenBlocks taken = TakenBlocks::kIgnore)
      ABSL_LOCKS_EXCLUDED(lock_);

  // The same for each later use of the zone.
  void SetUseObserver(ZoneUseObserver* observer) ABSL_LOCKS_EXCLUDED(lock_);

  // Offlining ---------------------------------------------------------------
  // REQUIRES for all: `range` is aligned to blocks of max_order().

  // Sets all pageblocks of `range` to kIsolate: pages there that are or become
  // free cannot be allocated, and count as offlining, not as free. Returns the
  // previous types (start_isolate_page_range).
  std::vector<MigrateType> IsolatePageblocks(PfnRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Undoes IsolatePageblocks, which returned `types` (undo_isolate_page_range).
  void RestorePageblocks(PfnRange range, std::span<const MigrateType> types)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The first block in `range` that is allocated or cached, and the first that
  // is isolated for the host; none if there is none.
  struct Busy {
    std::optional<Pfn> in_use;
    std::optional<Pfn> isolated;
  };
  Busy FindBusy(PfnRange range) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Removes `range` from the zone. REQUIRES: its pageblocks are kIsolate, and
  // all its pages are free (CHECKed).
  void RemoveMemory(PfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Counts ------------------------------------------------------------------
  // Snapshots; take no lock.

  // Pages of the zone; free; free but being offlined; isolated for the host.
  PageCount managed_pages() const { return PageCount(managed_pages_.Get()); }
  PageCount free_pages() const { return PageCount(free_pages_.Get()); }
  PageCount offlining_pages() const {
    return PageCount(offlining_pages_.Get());
  }
  PageCount isolated_pages() const { return PageCount(isolated_pages_.Get()); }
  // Free blocks of `order`, summed over types (nr_free).
  uint64_t free_blocks(Order order) const {
    return blocks_[static_cast<size_t>(order.value())].Get();
  }
  // Allocations and frees that bypassed the per-CPU lists.
  AllocationEvents events() const;
  // Requests served from another type's blocks, and pageblocks that changed
  // their type for them.
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
      if (order < kMaxOrder) continue;
      for (Pfn next = UntouchedAfter(Pfn(at)); next != kNoPfn;
           next = UntouchedAfter(next)) {
        visit(next);
      }
    }
  }
  // Counts the free blocks of `order` and `type` by walking their list.
  uint64_t CountFreeBlocks(Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Pageblocks by type, of those that have at least one page in the zone.
  std::array<uint64_t, kMigrateTypes> PageblocksByType() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Walks all lists and pages. Internal, naming the invariant of
  // docs/invariants.md and the page, if one does not hold.
  absl::Status CheckInvariants() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // As Allocate, but kNoPfn for none; for PageAllocator.
  Pfn Take(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

 private:
  static constexpr uint64_t kAllOrders = (uint64_t{1} << kOrders) - 1;

  static constexpr int Bit(Order order, MigrateType type) {
    return static_cast<int>(type) * kOrders + order.value();
  }
  // Of bits such as nonempty_: one bit per order, from `smallest` up.
  static constexpr uint64_t OrdersIn(uint64_t lists, MigrateType type,
                                     Order smallest) {
    const uint64_t orders = lists >> Bit(Order(0), type) & kAllOrders;
    return orders >> smallest.value() << smallest.value();
  }
  PageMap::Index List(Order order, MigrateType type) const {
    return lists_ + static_cast<PageMap::Index>(Bit(order, type));
  }
  bool IsOurs(Pfn pfn) const {
    return pages_.pageblock(pfn).zone == options_.index;
  }
  Order pageblock_order() const { return pages_.pageblock_order(); }

  // Batches counter updates, so that a reader without the lock sees no dip
  // while a block is split or merged.
  class ListChange;

  // Takes blocks as ZonePaths::Split does; steals if there is none. Returns
  // their number.
  size_t TakeBlocks(ListChange& change, Order order, MigrateType type,
                    Mixing mixing, size_t most, Pfn& first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void NotifyOfUse(size_t blocks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Moves a block of another type to the lists of `type`. False if there is
  // none.
  bool Steal(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void StealBlock(ListChange& change, Pfn pfn, Order order, MigrateType type,
                  bool whole_pageblock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Moves all free blocks of the pageblock of `pfn` to the lists of `type`.
  struct Moved {
    PageCount free;     // moved
    PageCount movable;  // in use, allocated as movable
  };
  Moved MovePageblock(ListChange& change, Pfn pfn, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // For a block that is pinned, then false, or was; else ends the process with
  // an error message.
  [[gnu::cold]] bool MayFreePinned(Pfn pfn, Order order) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // As FreeBlockAt, but CHECKs that there is one.
  Order OrderOfFree(Pfn pfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void CheckOnFreeList(Pfn pfn, Order order) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // As Free, but notifies the observer only if `tell`.
  FreeBlockObserver* FreeAllocated(Pfn pfn, Order order, bool tell)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Splitting and merging.
  friend class ZonePaths;
  // Blocks that a batch has freed, but not listed yet.
  class Unlisted;
  // Merges an off-list block with its buddies, and lists the result.
  Block Insert(Pfn pfn, Order order, MigrateType type, bool to_tail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // Untouched blocks (PageMap) have no links. Memory comes in runs of them,
  // whose first in the order of the list is listed. Each of the others follows
  // its neighbour in the run, and is listed when that one leaves the list or a
  // caller names it. Under the lock, as ListChange.
  void AddUntouched(PfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The untouched block that follows `pfn`, of kMaxOrder; kNoPfn if none does.
  Pfn UntouchedAfter(Pfn pfn) const {
    constexpr uint64_t kStep = kMaxOrder.pages().value();
    const Pfn after(pfn.value() + (cold_to_tail() ? kStep : -kStep));
    if (after >= pages_.end() || !IsOurs(after)) return kNoPfn;
    return pages_.IsUntouched(after) ? after : kNoPfn;
  }
  // List that one; all of a run up to `pfn`. Nothing if it is not untouched.
  void ListUntouchedAfter(Pfn pfn) const;
  void ListUntouched(Pfn pfn) const;

  // Makes the pages of the pageblock at `pfn` that are in `range` tails.
  void TakePageblock(Pfn pfn, PfnRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Shuffle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void UpdateSpan() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void SetBelowHigh(bool below) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool cold_to_tail() const {  // FPI_TO_TAIL of 6.1 and later
    return options_.placement.rules != KernelVersion::kV5_3;
  }

  absl::Status CheckFreeLists() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status CheckBlocks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const Options options_;
  std::atomic<Mixing> first_mixing_{Mixing::kAllow};
  PageMap& pages_;
  // The first list head. By type, then by order, ascending.
  const PageMap::Index lists_;
  mutable BiasedLock lock_;
  // Above every order if there is no observer, so that the hook costs one
  // comparison.
  int observer_min_order_ ABSL_GUARDED_BY(lock_) = kOrders;
  // The observer if it wants OnBlocksTaken, else null.
  FreeBlockObserver* taken_observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  // What a batch took, for that observer.
  std::vector<PfnRange> taken_runs_ ABSL_GUARDED_BY(lock_);
  // Pageblocks of type kIsolate. While 0, merges need not compare types.
  uint32_t isolate_pageblocks_ ABSL_GUARDED_BY(lock_) = 0;
  // True once a pageblock's type was changed, other than by offlining.
  bool retyped_ ABSL_GUARDED_BY(lock_) = false;
  FreeBlockObserver* observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  ZoneUseObserver* use_observer_ ABSL_GUARDED_BY(lock_) = nullptr;
  // One bit per list: set if the list is not empty.
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
  Counter fast_mark_;
  std::atomic<bool> below_high_{false};  // written under lock_
  std::atomic<bool> reclaim_active_{false};
  Counter span_start_;
  Counter span_end_;
  std::vector<PfnRange> ranges_ ABSL_GUARDED_BY(lock_);
  std::optional<Random> shuffle_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONE_H_
