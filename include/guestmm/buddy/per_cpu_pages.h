#ifndef GUESTMM_BUDDY_PER_CPU_PAGES_H_
#define GUESTMM_BUDDY_PER_CPU_PAGES_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/biased_lock.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/allocation_events.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

namespace guestmm {

// How many pages a vCPU's lists of a zone hold, and how many they take from or
// give to the zone at a time.
struct PerCpuLimits {
  uint32_t batch = 0;
  uint32_t high = 0;

  bool operator==(const PerCpuLimits&) const = default;
};

// Linux's choice for a zone of `managed` pages, of which `low` are its low
// watermark, for each of its node's `node_cpus` vCPUs: a batch of 63 from 1 GiB
// upwards; a high mark of six batches in 5.3 (zone_batchsize,
// pageset_set_batch), of a share of the low watermark in 6.1 (zone_highsize).
// REQUIRES: node_cpus > 0.
PerCpuLimits DefaultPerCpuLimits(KernelVersion version, PageCount managed,
                                 PageCount low, int node_cpus);

// How many pages lists that hold `count` give back once a block of `order` was
// freed to them (6.1, free_unref_page_commit and nr_pcp_free). None below the
// high mark; from there on twice as many each time in a row, up to 32 batches
// (since 6.1.104: CONFIG_PCP_BATCH_SCALE_MAX, which is 5), but a batch at
// least, and they keep a batch. All after a block of order 1 to 3, while pages
// go back in a row (free_high). `free_factor`: how often in a row.
uint64_t PagesToGiveBack61(const PerCpuLimits& limits, Order order,
                           uint64_t count, uint32_t& free_factor);

// The lists of one vCPU and zone by number (order_to_pindex): of each of the
// orders 0 to 3 (PAGE_ALLOC_COSTLY_ORDER) one for each type; then a pageblock's
// (NR_PCP_THP), which since 6.1.97 are two, the second for movable ones.
struct PerCpuLists {
  static constexpr int kSmallOrders = 4;
  static constexpr size_t kPageblockLists =
      size_t{kSmallOrders} * kRequestTypes;
  static constexpr size_t kCount = kPageblockLists + 2;

  // REQUIRES: a small order, or a pageblock's; a request's type.
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
// (struct per_cpu_pages, with the lock that Linux gave it in 6.0). The block
// freed last is handed out first; the one freed longest ago goes back to the
// zone first.
//
// Of order 0 alone in 5.3; of orders 0 to 3 and of a pageblock in 6.1, where it
// also gives back more the longer nothing is allocated.
//
// Its lock nests outside its zone's, and costs next to nothing while one thread
// uses the vCPU; a drain from elsewhere is a visit.
class alignas(64) PerCpuPages {
 public:
  // REQUIRES: as SetLimits.
  PerCpuPages(Zone& zone, PageMap& pages, KernelVersion version,
              PerCpuLimits limits);
  PerCpuPages(const PerCpuPages&) = delete;
  PerCpuPages& operator=(const PerCpuPages&) = delete;

  // The orders that a version caches, a bit each.
  static uint32_t CachedOrders(KernelVersion version, Order pageblock_order);

  // A block, after refilling from the zone where the list is empty. None if the
  // zone has none either. REQUIRES: `order` is cached.
  std::optional<Pfn> Allocate(Order order, MigrateType type,
                              Mixing mixing = Mixing::kAllow)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock()) {
    return ToOptional(Take(order, type, mixing));
  }

  // Takes a block in; past the high mark some go to the zone. Returns the
  // observer to Wake, or null.
  // REQUIRES: `order` is cached; a block of this zone, allocated at `order`
  // (CHECKed). A pinned one stays allocated until it no longer is pinned.
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn, Order order)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // Gives every block to the zone. Safe from any thread. Returns as Free.
  [[nodiscard]] FreeBlockObserver* Drain()
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // For a zone whose size changed. Gives every block to the zone, and returns
  // as Free. REQUIRES: limits.batch > 0; both at most 2^20.
  [[nodiscard]] FreeBlockObserver* SetLimits(PerCpuLimits limits)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  Zone& zone() const { return zone_; }
  PerCpuLimits limits() const ABSL_LOCKS_EXCLUDED(lock_);
  // A snapshot.
  PageCount cached_pages() const { return PageCount(count_.Get()); }

  // A snapshot.
  AllocationEvents events() const;

  // For who must have all lists at rest: to check them, or to take what none of
  // them can take back. DrainHeld is Drain, TakeHeld is Take.
  BiasedLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }
  [[nodiscard]] FreeBlockObserver* DrainHeld()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) ABSL_LOCKS_EXCLUDED(zone_.lock());
  Pfn TakeHeld(Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) ABSL_LOCKS_EXCLUDED(zone_.lock());
  PageCount CheckedCount(absl::Status& status) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // For the allocator's front door; kNoPfn for none.
  Pfn Take(Order order, MigrateType type, Mixing mixing)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());
  // What they nearly always come to, in few instructions and without a call:
  // Take where the list has a block, Free where it stays there, by the thread
  // that has used this vCPU before. kNoPfn, or false, and no effect otherwise.
  Pfn TakeListed(Order order, MigrateType type) ABSL_LOCKS_EXCLUDED(lock_);
  bool FreeListed(Pfn pfn, Order order) ABSL_LOCKS_EXCLUDED(lock_);

 private:
  static constexpr size_t kLists = PerCpuLists::kCount;

  // A double-ended queue in a ring of a power of two; 32-bit pfns as in the
  // page map. The newest is at `first`, which each allocation moves up and each
  // free down; so frees = allocations - first.
  struct List {
    Counter first;
    uint64_t end = 0;
    std::unique_ptr<uint32_t[]> ring;
    Counter allocations;

    bool empty() const { return first.Get() == end; }
    uint64_t blocks() const { return end - first.Get(); }
  };
  uint32_t& At(const List& list, uint64_t index) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return list.ring[index & mask_];
  }

  Order OrderOf(size_t list) const {
    return PerCpuLists::OrderOf(list, pages_.pageblock_order());
  }

  // Hands out the newest block of a list that has one.
  Pfn Pop(List& list, Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Whether `pfn` is a block that Free may take in.
  bool IsOurs(Pfn pfn, Order order, PageMap::Pageblock pageblock) const {
    return pages_.IsAllocated(pfn, order) && pageblock.zone == zone_index_ &&
           static_cast<int>(pageblock.type) < kRequestTypes;
  }
  void Push(List& list, Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // What Take and Free do seldom.
  [[gnu::cold]] FreeBlockObserver* FreeUncached(Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // False if the zone has nothing. REQUIRES: the list is empty.
  [[gnu::noinline]] bool Refill(List& list, Order order, MigrateType type,
                                Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // After a free of `order` to list `index`: gives back what is too much.
  [[gnu::noinline]] FreeBlockObserver* Trim(size_t index, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The oldest blocks, list by list, `pages` in all or a few more, to the zone.
  FreeBlockObserver* GiveBack(uint64_t pages, size_t first_list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Pick53(uint64_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Pick61(uint64_t pages, size_t first_list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Takes a list's `blocks` oldest, of which it has as many, into batch_.
  void PickOldest(size_t list, uint64_t blocks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void MakeRings() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  mutable BiasedLock lock_;
  // How often in a row blocks went back, each time more; less for each
  // allocation (6.1).
  uint32_t free_factor_ ABSL_GUARDED_BY(lock_) = 0;
  PerCpuLimits limits_ ABSL_GUARDED_BY(lock_);
  Counter count_;  // pages
  PageMap& pages_;
  Zone& zone_;
  const uint8_t zone_index_;
  const KernelVersion version_;
  uint64_t mask_ ABSL_GUARDED_BY(lock_) = 0;  // of every ring
  std::array<List, kLists> lists_ ABSL_GUARDED_BY(lock_);
  std::vector<Pfn> refill_ ABSL_GUARDED_BY(lock_);
  std::vector<Zone::CachedBlock> batch_ ABSL_GUARDED_BY(lock_);
};

[[gnu::always_inline]] inline Pfn PerCpuPages::Pop(List& list, Order order,
                                                   MigrateType type) {
  const uint64_t first = list.first.Get();
  const Pfn pfn(At(list, first));
  list.allocations.Add(1);
  list.first.Set(first + 1);
  count_.Subtract(order.pages().value());
  pages_.SetAllocated(pfn, order, type);
  return pfn;
}

[[gnu::always_inline]] inline void PerCpuPages::Push(List& list, Pfn pfn,
                                                     Order order) {
  pages_.SetCached(pfn);
  const uint64_t first = list.first.Get() - 1;
  list.first.Set(first);
  At(list, first) = static_cast<uint32_t>(pfn.value());
  count_.Add(order.pages().value());
}

[[gnu::always_inline]] inline Pfn PerCpuPages::TakeListed(Order order,
                                                          MigrateType type) {
  if (!lock_.TryLockAsOwner()) [[unlikely]]
    return kNoPfn;
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  const bool listed = !list.empty() && free_factor_ == 0;
  const Pfn pfn = listed ? Pop(list, order, type) : kNoPfn;
  lock_.UnlockAsOwner();
  return pfn;
}

[[gnu::always_inline]] inline bool PerCpuPages::FreeListed(Pfn pfn,
                                                           Order order) {
  if (!lock_.TryLockAsOwner()) [[unlikely]]
    return false;
  // Read under the lock: once a pageblock is isolated and the lists are
  // drained, nothing of it is cached any more.
  const PageMap::Pageblock pageblock = pages_.pageblock(pfn);
  const bool stays = IsOurs(pfn, order, pageblock) && free_factor_ == 0 &&
                     count_.Get() + order.pages().value() < limits_.high;
  if (stays) [[likely]] {
    Push(lists_[PerCpuLists::IndexOf(order, pageblock.type)], pfn, order);
  }
  lock_.UnlockAsOwner();
  return stays;
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PER_CPU_PAGES_H_
