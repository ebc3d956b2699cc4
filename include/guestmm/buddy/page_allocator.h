#ifndef GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
#define GUESTMM_BUDDY_PAGE_ALLOCATOR_H_

// Linux's page allocator: NUMA nodes, zones, zonelists and per-CPU lists behind
// one interface (alloc_pages, __free_pages).
//
//   auto allocator =
//       PageAllocator::Create({.memory = {{Pfn(0), Pfn(262144)}}});
//   std::optional<Pfn> page =
//       (*allocator)->Allocate(/*cpu=*/0, Order(0), kGfpKernel);
//   (*allocator)->Free(/*cpu=*/0, *page, Order(0));

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/memory_layout.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/buddy/zonelist.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/frame/gfp.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/frame/vmstat.h"

namespace GUESTMM_EXPORT guestmm {

struct PageAllocatorOptions {
  // The memory at boot: non-empty, ascending, disjoint. Two nodes must not
  // share a pageblock.
  MemoryMap memory = {};
  // Pages to put in ZONE_MOVABLE (movablecore=); see LayOutZones.
  PageCount movable = {};
  // One past the highest page that may be hot-added. Unset: the end of
  // `memory`. Costs address space only.
  std::optional<Pfn> hotplug_end = {};
  // Empty: 10 within a node, 20 between nodes.
  NodeDistances distances = {};

  // The number of vCPUs. Each has per-CPU lists for every zone.
  int cpus = 1;
  // The node of each vCPU. Empty: spread evenly, the first vCPUs on node 0.
  std::vector<int> cpu_nodes = {};

  // At most kMaxOrder.
  Order max_order = kMaxOrder;
  // At most max_order. Unset: 9, or max_order if that is less.
  std::optional<Order> pageblock_order = {};
  // The unit of hotplug; at least max_order.
  Order section_order = kSectionOrder;

  // At most 2^30. Unset: the kernel's formula.
  std::optional<uint64_t> min_free_kbytes = {};
  // The kernel whose per-CPU lists are modelled: of order 0 only (5.3), or of
  // orders 0 to 3 and 9 (6.1), or also of a size that follows the load (6.12).
  KernelVersion per_cpu_lists = KernelVersion::kV5_3;
  // batch > 0; all at most 2^20. Unset: the kernel's formula.
  std::optional<PerCpuLimits> per_cpu_limits = {};
  PlacementOptions placement = {};

  // The reporter's queue. If set, a request that would fail waits as long as
  // memory is isolated for the host, until some of it returns. Must outlive the
  // allocator. Null: no request waits for that.
  Workqueue* wait_for_isolated = nullptr;

  // If set, fills free memory, and checks and clears allocated memory. All
  // memory, including onlined memory, must be in its guest RAM (CHECKed). Must
  // outlive the allocator.
  PagePoison* poison = nullptr;
};

class PageAllocator final : public FrameAllocator {
 public:
  // Makes an allocator with all memory free, in each node's zones.
  // InvalidArgument if an option is out of bounds, or a page is not in the
  // guest RAM of `poison`; the message names it.
  static absl::StatusOr<std::unique_ptr<PageAllocator>> Create(
      const PageAllocatorOptions& options);

  // Allocates a block. Tries, in order: zones above low + lowmem_reserve; above
  // min, adjusted for gfp.reserves; after direct reclaim, if
  // gfp.may_reclaim; after draining the per-CPU lists. With gfp.may_reclaim,
  // then waits as long as memory is on its way back from the host:
  // what reclaimers have in flight, and isolated memory if wait_for_isolated is
  // set. None if memory is out. A request from a work of the queue that returns
  // the memory, such as a vCPU's step in virtual time, returns none instead of
  // waiting, and WhenToRetry. Fastest if one thread at a time uses a cpu.
  // REQUIRES: 0 <= cpu < cpus(); order <= max_order(); gfp.type is one of the
  // kRequestTypes; gfp.node is a node or kLocalNode (CHECKed).
  //
  // Hides FrameAllocator::Allocate, so that callers of the concrete class make
  // no virtual call.
  std::optional<Pfn> Allocate(int cpu, Order order, Gfp gfp = kGfpUser) {
    return ToOptional(Take(cpu, order, gfp));
  }

  // Returns a function only while there is memory that the request has to wait
  // for: it returns true once some of that has returned, or a zone can serve
  // the request.
  std::function<bool()> WhenToRetry(int cpu, Order order, Gfp gfp) override;

  // Frees a block on `cpu`, which need not be the one that allocated it. A
  // pinned block is freed when its last pin is dropped. REQUIRES: as Allocate;
  // `pfn` is a block allocated at `order` (CHECKed, unless two vCPUs free it at
  // the same moment).
  void Free(int cpu, Pfn pfn, Order order) override;

  bool AllocateAt(Pfn pfn, Order order, MigrateType type) override;

  // Pins the block at `pfn`, for a device that may write to it at any time: it
  // stays allocated, even if its owner frees it, until Unpin was called as
  // often (pin_user_pages). REQUIRES: `pfn` is the head of an allocated block
  // (CHECKed).
  void Pin(Pfn pfn);
  // Drops a pin. Frees the block on `cpu` if that was the last pin and its
  // owner has freed it. REQUIRES: pinned (CHECKed).
  void Unpin(int cpu, Pfn pfn);

  void DrainPerCpuPages() override;
  void RefreshPerCpuPages(int cpu) override;

  void AddReclaimer(Reclaimer& reclaimer) override
      ABSL_LOCKS_EXCLUDED(reclaim_lock_);
  void RemoveReclaimer(Reclaimer& reclaimer) override
      ABSL_LOCKS_EXCLUDED(reclaim_lock_);

  // Notifies `observer` of all online memory, then sets it as the observer of
  // every zone; null for no observer. See Zone::SetObserver.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0),
                   TakenBlocks taken = TakenBlocks::kIgnore)
      ABSL_LOCKS_EXCLUDED(memory_lock_);

  // Sets the observer of every zone; null for none. See Zone::SetUseObserver.
  void SetUseObserver(ZoneUseObserver* observer);

  int cpus() const override { return static_cast<int>(cpus_); }
  int nodes() const { return static_cast<int>(distances_.size()); }
  // REQUIRES: 0 <= cpu < cpus().
  int NodeOf(int cpu) const { return cpu_nodes_[static_cast<size_t>(cpu)]; }
  Order max_order() const override { return options_.max_order; }
  Order section_order() const { return options_.section_order; }
  Pfn hotplug_end() const override { return *options_.hotplug_end; }
  const PageMap& pages() const { return *pages_; }
  // All zones, by node, then by type. Some may have no memory.
  std::span<const std::unique_ptr<Zone>> zones() const { return zones_; }
  Zone& zone(int node, ZoneType type) const {
    return *zones_[static_cast<size_t>(node) * kZoneTypes +
                   static_cast<size_t>(type)];
  }
  // The zone that contains `pfn`. REQUIRES: there is one (CHECKed).
  Zone& ZoneOf(Pfn pfn) const;
  // The lists of `cpu` for `zone`.
  const PerCpuPages& per_cpu_pages(int cpu, const Zone& zone) const {
    return per_cpu(cpu, zone);
  }

  uint64_t min_free_kbytes() const { return min_free_kbytes_.Get(); }
  // Sets it in place of PageAllocatorOptions::min_free_kbytes, and with it
  // watermarks and per-CPU limits (vm.min_free_kbytes). REQUIRES: at most 2^30.
  void SetMinFreeKbytes(uint64_t kbytes) ABSL_LOCKS_EXCLUDED(memory_lock_);
  PageCounts Counts() const override;
  PageCount FreePagesAboveLow() const override;
  bool HasFreeAboveLow(PageCount pages, ZoneType highest) const override;
  void ForEachFreeBlock(
      Order min_order, FreeBlocksOf zones,
      absl::FunctionRef<void(Pfn pfn, Order order)> visit) const override;
  VmStat vmstat() const override;
  // As vmstat(), for one zone: numa_… count requests served from it; the other
  // events are those of requests whose preferred zone it was.
  VmStat vmstat(const Zone& zone) const;

  // Checks P and Z of docs/invariants.md.
  absl::Status CheckInvariants() const override;

 private:
  friend class MemoryHotplug;

  // Counters of one zone that change rarely enough for atomic additions.
  struct RareEvents {
    std::atomic<uint64_t> allocstall{0};
    std::atomic<uint64_t> pgsteal_direct{0};
    std::atomic<uint64_t> numa_miss{0};
    std::atomic<uint64_t> numa_foreign{0};
    std::atomic<uint64_t> numa_other{0};
    std::atomic<uint64_t> alloc_failed{0};
    std::atomic<uint64_t> alloc_failed_isolated{0};
    std::atomic<uint64_t> alloc_failed_isolated_pages{0};
    std::atomic<uint64_t> alloc_waited_isolated{0};
  };

  PageAllocator(const PageAllocatorOptions& options,
                std::unique_ptr<PageMap> pages);

  PerCpuPages& per_cpu(int cpu, const Zone& zone) const {
    return per_cpu(cpu, static_cast<unsigned>(zone.index()));
  }
  PerCpuPages& per_cpu(int cpu, unsigned zone) const {
    return *per_cpu_[static_cast<unsigned>(cpu) * zone_count_ + zone];
  }
  RareEvents& events(const Zone& zone) const {
    return events_[static_cast<size_t>(zone.index())];
  }
  PerCpuPages* FirstChoice(int cpu, ZoneType highest) const {
    return first_choices_[static_cast<size_t>(cpu) * kZoneTypes +
                          static_cast<size_t>(highest)]
        .load(std::memory_order_acquire);
  }
  bool IsPerCpuOrder(Order order) const {
    return order == Order(0) || (per_cpu_orders_ >> order.value() & 1) != 0;
  }

  // A request, with its zonelist.
  struct Request {
    int cpu;
    Order order;
    Gfp gfp;
    std::span<Zone* const> zones;
  };
  // The free pages that a zone must keep: its low watermark; min, less the
  // reserves that the request may use; the same, checked under the zone's lock;
  // none. The first three plus the zone's lowmem_reserve.
  enum class Keep { kLow, kMin, kMinForSure, kNothing };

  // These return kNoPfn where Allocate returns none.
  Pfn Take(int cpu, Order order, Gfp gfp) override;
  // The fast path, which serves nearly all requests: local, from a zone above
  // its fast_mark(). Returns that zone's lists of the vCPU; otherwise null.
  PerCpuPages* FastChoice(int cpu, Order order, Gfp gfp) const;
  // As Take and Free, for orders above 0.
  [[gnu::noinline]] Pfn TakeLarger(int cpu, Order order, Gfp gfp);
  [[gnu::noinline]] void FreeLarger(int cpu, Pfn pfn, Order order);
  Pfn TakeUncached(int cpu, Order order, Gfp gfp);
  // REQUIRES: gfp.node is a node or kLocalNode (CHECKed).
  Request MakeRequest(int cpu, Order order, Gfp gfp) const;
  // `tried` is a zone that had no block and is skipped initially, or null.
  Pfn TakeFromZonelist(int cpu, Order order, Gfp gfp, const Zone* tried);
  // kHeld if the caller holds the locks of all per-CPU lists.
  enum class PerCpuLocks : bool { kFree, kHeld };
  Pfn TakeFrom(PerCpuPages& per_cpu, Order order, MigrateType type,
               Mixing mixing, PerCpuLocks locks = PerCpuLocks::kFree);
  // Tries the zones of the request in order, skipping `tried`.
  Pfn TryZones(const Request& request, Keep keep, Mixing mixing,
               PerCpuLocks locks = PerCpuLocks::kFree,
               const Zone* tried = nullptr);
  Pfn AllocateSlowPath(const Request& request);
  // Retries after direct reclaim and a drain, while reclaim makes progress.
  Pfn TakeReclaimed(const Request& request);
  // The memory that a request may wait for.
  struct OnItsWay {
    // The queue whose works return it; null if there is none.
    Workqueue* queue = nullptr;
    // The isolated pages of the request's zones; 0 unless wait_for_isolated is
    // set.
    PageCount isolated;
    // How often reclaimers' pages have come back; never decreases.
    uint64_t returns = 0;

    bool operator==(const OnItsWay&) const = default;
  };
  OnItsWay FindOnItsWay(const Request& request)
      ABSL_LOCKS_EXCLUDED(reclaim_lock_);
  // As TakeReclaimed, and again whenever memory returns, while there is any on
  // its way. kMustWait if the caller must end first (WhenToRetry).
  Pfn TakeReturned(const Request& request);
  // True if the request, which failed when `before` was on its way, is worth
  // another try.
  bool MayRetry(const Request& request, const OnItsWay& before);
  // Retries after draining the per-CPU lists of all vCPUs.
  Pfn TakeDrained(const Request& request, Keep keep);
  static bool MayTake(const Zone& zone, const Request& request, Keep keep);
  PageCount Reclaim(const Request& request) ABSL_LOCKS_EXCLUDED(reclaim_lock_);
  static PageCount IsolatedPages(const Request& request);

  bool IsRequest(int cpu, Order order, Gfp gfp) const {
    return static_cast<unsigned>(cpu) < cpus_ && order <= max_order() &&
           static_cast<int>(gfp.type) < kRequestTypes;
  }
  bool IsFreeable(int cpu, Pfn pfn, Order order) const {
    return static_cast<unsigned>(cpu) < cpus_ && order <= max_order() &&
           pfn < pages_->end();
  }
  // End the process with an error message.
  [[gnu::cold]] void RejectRequest(int cpu, Order order, Gfp gfp) const;
  [[gnu::cold]] void RejectFree(int cpu, Pfn pfn, Order order) const;

  // Fills a block that its owner frees, before anything else is done with it.
  // False if the block is pinned: then it stays allocated, and its last Unpin
  // frees it. REQUIRES: options_.poison is not null.
  bool FillFreed(Pfn pfn, Order order);
  // Frees a block of an order that is on no vCPU's lists.
  void FreeToZone(Zone& zone, Pfn pfn, Order order,
                  PageMap::Blocks::PageblockRead pageblock);
  void FreeUncached(int cpu, Pfn pfn, Order order);

  // For MemoryHotplug. `range` is in whole sections.
  void OnlineMemory(Zone& zone, PfnRange range)
      ABSL_LOCKS_EXCLUDED(memory_lock_);
  // REQUIRES: as Zone::RemoveMemory.
  void OfflineMemory(Zone& zone, PfnRange range)
      ABSL_LOCKS_EXCLUDED(memory_lock_);
  // Returns the metadata of `range` to the host. REQUIRES: `range` is offline.
  void ForgetMemory(PfnRange range) { pages_->Release(range); }
  // True if a page of `range` is in a zone.
  bool AnyOnline(PfnRange range) const;

  // Updates what depends on the sizes of zones: watermarks, per-CPU limits,
  // zonelists. Returns the observer if the caller must Wake it, else null.
  [[nodiscard]] FreeBlockObserver* ZonesResized()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(memory_lock_);

  const PageAllocatorOptions options_;
  const uint32_t per_cpu_orders_;
  const unsigned cpus_;
  const std::vector<int> cpu_nodes_;
  const NodeDistances distances_;
  std::unique_ptr<PageMap> pages_;
  // For the fast paths. The vCPUs that have one: none with a poison.
  const PageMap::Blocks blocks_;
  const Pfn end_;
  const unsigned fast_cpus_;
  std::vector<std::unique_ptr<Zone>> zones_;
  unsigned zone_count_ = 0;
  // By cpu, then by zone.
  std::vector<std::unique_ptr<PerCpuPages>> per_cpu_;
  std::unique_ptr<RareEvents[]> events_;
  // The lists, of the preferred zone, that a vCPU's local requests try first;
  // null if no zone has memory. By cpu, then by the highest zone of the
  // request.
  std::unique_ptr<std::atomic<PerCpuPages*>[]> first_choices_;
  Counter min_free_kbytes_;

  // The current zonelists, read without a lock: one of all_zonelists_.
  std::atomic<const Zonelists*> zonelists_{nullptr};

  // Guards which memory is online, and the observer. Taken before all other
  // locks of the allocator.
  Mutex memory_lock_;
  FreeBlockObserver* observer_ ABSL_GUARDED_BY(memory_lock_) = nullptr;
  // Unset: the kernel's formula.
  std::optional<uint64_t> set_min_free_kbytes_ ABSL_GUARDED_BY(memory_lock_);
  // All zonelists so far: a reader may still use an older one.
  std::vector<std::unique_ptr<const Zonelists>> all_zonelists_
      ABSL_GUARDED_BY(memory_lock_);

  // Held while reclaimers run.
  Mutex reclaim_lock_;
  std::vector<Reclaimer*> reclaimers_ ABSL_GUARDED_BY(reclaim_lock_);
  // InFlight::returns of removed reclaimers, and one for each removal.
  uint64_t past_returns_ ABSL_GUARDED_BY(reclaim_lock_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
