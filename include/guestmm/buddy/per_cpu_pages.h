#ifndef GUESTMM_BUDDY_PER_CPU_PAGES_H_
#define GUESTMM_BUDDY_PER_CPU_PAGES_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/biased_lock.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/allocation_events.h"
#include "guestmm/buddy/block_window.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/per_cpu_marks.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

namespace GUESTMM_EXPORT guestmm {

// Numbers the lists of one vCPU and zone (order_to_pindex): one per type for
// each of the orders 0 to 3 (PAGE_ALLOC_COSTLY_ORDER); then those of a
// pageblock's order (NR_PCP_THP), since 6.1.97 two, the second for movable.
struct PerCpuLists {
  static constexpr int kSmallOrders = 4;
  static constexpr size_t kPageblockLists =
      size_t{kSmallOrders} * kRequestTypes;
  static constexpr size_t kCount = kPageblockLists + 2;

  // REQUIRES: `order` is a small order or the pageblock order; `type` is one of
  // the kRequestTypes.
  static size_t IndexOf(Order order, MigrateType type) {
    return std::min<size_t>(
        order.bits() * kRequestTypes + static_cast<size_t>(type),
        kPageblockLists + (type == MigrateType::kMovable ? 1 : 0));
  }
  // REQUIRES: list < kCount.
  static Order OrderOf(size_t list, Order pageblock_order) {
    return list < kPageblockLists
               ? Order(static_cast<int>(list) / kRequestTypes)
               : pageblock_order;
  }
};

// One vCPU's cache of one zone's blocks, in lists by migratetype and order
// (struct per_cpu_pages, with the lock that Linux 6.0 added). Allocates the
// block freed last; returns the block freed longest ago to the zone first.
//
// Caches order 0 in 5.3; orders 0 to 3 and the pageblock order in 6.1 and 6.12.
// PerCpuMarks decides how many pages move, and when.
//
// The lock is taken before the zone's. It costs next to nothing while one
// thread uses the vCPU; a drain by another thread is a visit (BiasedLock).
class alignas(64) PerCpuPages {
 public:
  // REQUIRES: as SetLimits.
  PerCpuPages(Zone& zone, PageMap& pages, KernelVersion version,
              PerCpuLimits limits);
  PerCpuPages(const PerCpuPages&) = delete;
  PerCpuPages& operator=(const PerCpuPages&) = delete;

  // One bit per order: set if `version` caches blocks of that order.
  static uint32_t CachedOrders(KernelVersion version, Order pageblock_order);

  // Allocates a block; refills the list from the zone if it is empty. None if
  // the zone has none either. REQUIRES: `order` is in CachedOrders; `type` is
  // one of the kRequestTypes.
  std::optional<Pfn> Allocate(Order order, MigrateType type,
                              Mixing mixing = Mixing::kAllow)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock()) {
    return ToOptional(Take(order, type, mixing));
  }

  // Frees a block to its list; above the high mark, returns blocks to the zone.
  // A pinned block stays allocated until its last pin is dropped. Returns the
  // observer if the caller must Wake it, else null. REQUIRES: `order` is in
  // CachedOrders; a block of this zone, allocated at `order` (CHECKed).
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn, Order order)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // Returns every block to the zone. Returns as Free.
  [[nodiscard]] FreeBlockObserver* Drain()
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // Refreshes the counters of the vCPU, as the kernel does once a second:
  // lowers the high mark and returns what exceeds it to the zone; no effect in
  // 5.3 and 6.1 (decay_pcp_high). Returns as Free.
  [[nodiscard]] FreeBlockObserver* Decay()
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // Sets the limits, after the zone was resized. If they differ, returns every
  // block to the zone. Returns as Free. REQUIRES: limits.batch > 0; all at most
  // 2^20.
  [[nodiscard]] FreeBlockObserver* SetLimits(PerCpuLimits limits)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  Zone& zone() const { return zone_; }
  PerCpuLimits limits() const ABSL_LOCKS_EXCLUDED(lock_);
  // The pages to hold at most, as tuned by now (PerCpuMarks::high).
  uint32_t high() const ABSL_LOCKS_EXCLUDED(lock_);
  // A snapshot.
  PageCount cached_pages() const;

  // A snapshot.
  AllocationEvents events() const;

  // For callers that lock all lists at once: to check them, or to allocate
  // drained pages before another vCPU refills its lists with them. As Drain and
  // Take.
  BiasedLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }
  [[nodiscard]] FreeBlockObserver* DrainHeld()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) ABSL_LOCKS_EXCLUDED(zone_.lock());
  Pfn TakeHeld(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) ABSL_LOCKS_EXCLUDED(zone_.lock());
  // The number of pages on the lists. Updates `status` with an Internal error
  // if the lists break P3 of docs/invariants.md.
  PageCount CheckedCount(absl::Status& status) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // As Allocate, but kNoPfn for none; for PageAllocator.
  Pfn Take(Order order, MigrateType type, Mixing mixing)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());
  // The fast paths of Take and Free, inlined, for the thread that owns the
  // lock's bias: Take if the list has a block, Free if the list has room.
  // Otherwise kNoPfn or false, with no effect. `pageblock` is that of the
  // block, and of this zone.
  Pfn TakeCached(Order order, MigrateType type) ABSL_LOCKS_EXCLUDED(lock_);
  bool FreeToCache(Pfn pfn, Order order,
                   PageMap::Blocks::PageblockRead pageblock)
      ABSL_LOCKS_EXCLUDED(lock_);

 private:
  static constexpr size_t kLists = PerCpuLists::kCount;

  // The blocks, newest first: the next to be allocated. Each allocation pops
  // one and each free pushes one, so frees = allocations - popped.
  struct alignas(64) List {
    BlockWindow window;
    Counter allocations;
  };
  static_assert(sizeof(List) == 64);

  Order OrderOf(size_t list) const { return orders_[list]; }
  // Allocates the newest block of a list. REQUIRES: it is not empty.
  Pfn Pop(List& list, Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // True if Free may cache the block.
  bool IsOurs(Pfn pfn, Order order, PageMap::Pageblock pageblock) const {
    return blocks_.IsAllocated(pfn, order) && pageblock.zone == zone_index_ &&
           static_cast<int>(pageblock.type) < kRequestTypes;
  }

  // Calls `visit(index, list)` for each list that may have blocks or room.
  template <typename Visit>
  void ForEachInUse(Visit visit) const {
    for (uint64_t left = in_use_.Get(); left != 0; left &= left - 1) {
      const auto index = static_cast<size_t>(std::countr_zero(left));
      visit(index, lists_[index]);
    }
  }
  // The pages on the lists.
  uint64_t Count() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Shares what may be freed before the high mark is reached, in equal parts,
  // among the lists that are freed to, `filling_`. `count` is Count().
  void ShareRoom(uint64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The rare cases of Take and Free.
  [[gnu::cold]] FreeBlockObserver* FreeUncached(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // False if the zone has no block. REQUIRES: the list is empty.
  [[gnu::noinline]] bool Refill(size_t index, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Returns a list's oldest block to the zone.
  FreeBlockObserver* ReturnOldest(size_t index)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Returns the oldest blocks to the zone, list by list: none if `pages` is 0;
  // else at least `pages` in all and less than one block more.
  FreeBlockObserver* ReturnToZone(uint64_t pages, size_t first_list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Pick53(uint64_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Pick61(uint64_t pages, size_t first_list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Takes the oldest blocks off a list. REQUIRES: it has as many.
  Zone::CachedRun TakeOldest(size_t list, uint64_t blocks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void MakeWindows() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  mutable BiasedLock lock_;
  PerCpuMarks marks_ ABSL_GUARDED_BY(lock_);
  Zone& zone_;
  const PageMap::Blocks blocks_;
  const KernelVersion version_;
  const uint8_t zone_index_;
  std::array<List, kLists> lists_;  // written under lock_
  // One bit per list. A list outside of in_use_ is empty and has no room.
  Counter in_use_;
  uint32_t filling_ ABSL_GUARDED_BY(lock_) = 0;
  PageMap& pages_;
  std::array<Order, kLists> orders_;  // by list
  std::vector<Zone::CachedRun> batch_ ABSL_GUARDED_BY(lock_);
};

[[gnu::always_inline]] inline Pfn PerCpuPages::Pop(List& list, Order order,
                                                   MigrateType type) {
  // In this order, so that events() counts no allocation as a free.
  list.allocations.Add(1);
  const Pfn pfn = list.window.Pop();
  blocks_.SetAllocated(pfn, order, type);
  return pfn;
}

[[gnu::always_inline]] inline Pfn PerCpuPages::TakeCached(Order order,
                                                          MigrateType type) {
  if (!lock_.TryLockAsOwner()) [[unlikely]]
    return kNoPfn;
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  Pfn pfn = kNoPfn;
  if (!list.window.empty()) [[likely]] {
    marks_.OnAllocate();
    pfn = Pop(list, order, type);
  }
  lock_.UnlockAsOwner();
  return pfn;
}

[[gnu::always_inline]] inline bool PerCpuPages::FreeToCache(
    Pfn pfn, Order order, PageMap::Blocks::PageblockRead pageblock) {
  if (!lock_.TryLockAsOwner()) [[unlikely]]
    return false;
  const MigrateType type = pageblock.value().type;
  bool stays = false;
  // Read again under the lock, so that no page of a pageblock is cached after
  // the pageblock was isolated and the lists were drained.
  if (pageblock.holds() && static_cast<int>(type) < kRequestTypes &&
      blocks_.IsAllocated(pfn, order)) [[likely]] {
    BlockWindow& window = lists_[PerCpuLists::IndexOf(order, type)].window;
    stays = window.HasRoom() && (version_ == KernelVersion::kV6_12
                                     ? marks_.Keeps612(order, zone_.pressure())
                                     : marks_.Keeps(order));
    if (stays) [[likely]] {
      blocks_.SetCached(pfn, order);
      window.Push(pfn);
    }
  }
  lock_.UnlockAsOwner();
  return stays;
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PER_CPU_PAGES_H_
