#ifndef GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
#define GUESTMM_BUDDY_PAGE_ALLOCATOR_H_

// The allocator's front door: nodes, zones, per-CPU lists, and the way from one
// to the other (alloc_pages, __free_pages).
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

namespace guestmm {

struct PageAllocatorOptions {
  // The pages that are there: non-empty, ascending, disjoint. Two nodes do not
  // share a pageblock.
  MemoryMap memory = {};
  // Pages to be set aside in ZONE_MOVABLE (movablecore=); see LayOutZones.
  PageCount movable = {};
  // One past the highest page that may be hot-added; absent: no more than there
  // is now. Costs address space only.
  std::optional<Pfn> hotplug_end = {};
  // Absent: 10 to a node itself, 20 to any other.
  NodeDistances distances = {};

  // vCPUs, each with lists of its own for every zone.
  int cpus = 1;
  // The node of each vCPU. Absent: the first ones on node 0, and so on, as many
  // on each.
  std::vector<int> cpu_nodes = {};

  // At most kMaxOrder.
  Order max_order = kMaxOrder;
  // At most max_order. Absent: 9, or max_order if that is less.
  std::optional<Order> pageblock_order = {};
  // The unit of hotplug; at least max_order.
  Order section_order = kSectionOrder;

  // The kernel's formula where absent; at most 2^30.
  std::optional<uint64_t> min_free_kbytes = {};
  // Whose per-CPU lists: of single pages (5.3), or of orders 0 to 3 and 9 too
  // (6.1).
  KernelVersion per_cpu_lists = KernelVersion::kV5_3;
  // The kernel's formula where absent. batch > 0; both at most 2^20.
  std::optional<PerCpuLimits> per_cpu_limits = {};
  PlacementOptions placement = {};

  // Given: a request that would fail waits for memory that is isolated for the
  // host to come back, for as long as there is some; this is the queue on which
  // the reporter works. It must outlive the allocator. REQUIRES then: no
  // request comes from a work of a ThreadWorkqueue.
  Workqueue* wait_for_isolated = nullptr;

  // Given: writes to free memory, and checks and clears what is allocated. All
  // memory is in its guest RAM then, also what is onlined (CHECKed). It must
  // outlive the allocator.
  PagePoison* poison = nullptr;
};

class PageAllocator final : public FrameAllocator {
 public:
  // All memory free, in each node's zones. InvalidArgument names the option
  // that is out of bounds, or the page that `poison` does not find in its RAM.
  static absl::StatusOr<std::unique_ptr<PageAllocator>> Create(
      const PageAllocatorOptions& options);

  // Hides FrameAllocator::Allocate, so that a caller who knows the class needs
  // no virtual call.
  //
  // Takes a block for vCPU `cpu`, from the first zone of its zonelist that
  // stays above its low watermark and what it keeps back for others; else above
  // min, less what the request may dip into; else, if it may wait, after
  // reclaimers gave memory back; else after the per-CPU lists were drained, so
  // that it does not fail for what lies there. None if memory is out. Safe from
  // any thread; fastest where one thread at a time uses a cpu. REQUIRES: 0 <=
  // cpu < cpus(); order <= max_order(); gfp.type is a request's, gfp.node a
  // node or kLocalNode.
  std::optional<Pfn> Allocate(int cpu, Order order, Gfp gfp = kGfpUser) {
    return ToOptional(Take(cpu, order, gfp));
  }

  // Frees a block on vCPU `cpu`, which need not be the one that allocated it.
  // If it is pinned, that happens when its last pin goes. REQUIRES: as
  // Allocate; `pfn` is a block allocated at `order` (CHECKed, but for two vCPUs
  // that free it at the same moment).
  void Free(int cpu, Pfn pfn, Order order) override;

  bool AllocateAt(Pfn pfn, Order order, MigrateType type) override;

  // Pins the block at `pfn`: a device may write to it at any time, so it is not
  // free, whatever its owner does, before Unpin was called as often (pin_user_
  // pages). REQUIRES: allocated, by the caller's knowledge (CHECKed).
  void Pin(Pfn pfn);
  // REQUIRES: pinned (CHECKed).
  void Unpin(int cpu, Pfn pfn);

  void DrainPerCpuPages() override;

  void AddReclaimer(Reclaimer& reclaimer) override
      ABSL_LOCKS_EXCLUDED(reclaim_lock_);
  void RemoveReclaimer(Reclaimer& reclaimer) override
      ABSL_LOCKS_EXCLUDED(reclaim_lock_);

  // Sets the observer of every zone, after it was told of all memory that is
  // online; null for no one. See Zone::SetObserver.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0),
                   TakenBlocks taken = TakenBlocks::kIgnore)
      ABSL_LOCKS_EXCLUDED(memory_lock_);

  int cpus() const override { return static_cast<int>(cpus_); }
  int nodes() const { return static_cast<int>(distances_.size()); }
  // REQUIRES: 0 <= cpu < cpus().
  int NodeOf(int cpu) const { return cpu_nodes_[static_cast<size_t>(cpu)]; }
  Order max_order() const override { return options_.max_order; }
  Order section_order() const { return options_.section_order; }
  Pfn hotplug_end() const override { return *options_.hotplug_end; }
  const PageMap& pages() const { return *pages_; }
  // Every zone, by node and then by type; some may have no memory (yet).
  std::span<const std::unique_ptr<Zone>> zones() const { return zones_; }
  Zone& zone(int node, ZoneType type) const {
    return *zones_[static_cast<size_t>(node) * kZoneTypes +
                   static_cast<size_t>(type)];
  }
  // The zone that `pfn` is in. REQUIRES: one has it (CHECKed).
  Zone& ZoneOf(Pfn pfn) const;
  // A vCPU's lists of a zone.
  const PerCpuPages& per_cpu_pages(int cpu, const Zone& zone) const {
    return per_cpu(cpu, zone);
  }

  uint64_t min_free_kbytes() const { return min_free_kbytes_.Get(); }
  PageCounts Counts() const override;
  PageCount FreePagesAboveLow() const override;
  bool HasFreeAboveLow(PageCount pages, ZoneType highest) const override;
  void ForEachFreeBlock(
      Order min_order, FreeBlocksOf zones,
      absl::FunctionRef<void(Pfn pfn, Order order)> visit) const override;
  VmStat vmstat() const override;
  // The same for one zone: numa_… count pages served from it; the other events
  // are of requests whose preferred zone it was.
  VmStat vmstat(const Zone& zone) const;

  // Checks P and Z of docs/invariants.md.
  absl::Status CheckInvariants() const override;

 private:
  friend class MemoryHotplug;

  // What happens seldom enough to be counted by atomic additions, for each
  // zone.
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

  // A request, and where it may look.
  struct Request;
  // What a zone must keep: its low watermark; min, less the reserves that the
  // request may use; the same, looked up under the zone's lock; nothing.
  enum class Keep { kLow, kMin, kMinForSure, kNothing };

  // These return kNoPfn where Allocate returns none.
  Pfn Take(int cpu, Order order, Gfp gfp) override;
  // The requests of nearly all: local, of a zone that has enough, where the
  // vCPU has a block listed. kNoPfn for the others.
  Pfn TakeListed(int cpu, Order order, Gfp gfp);
  Pfn TakeUnlisted(int cpu, Order order, Gfp gfp);
  // `tried` has nothing, and is not asked a second time at first; or null.
  Pfn TakeFromZonelist(int cpu, Order order, Gfp gfp, const Zone* tried);
  // Whether the caller holds the locks of all per-CPU lists.
  enum class PerCpuLocks : bool { kFree, kHeld };
  Pfn TakeFrom(PerCpuPages& per_cpu, Order order, MigrateType type,
               Mixing mixing, PerCpuLocks locks = PerCpuLocks::kFree);
  // All zones but `tried`.
  Pfn TryZones(const Request& request, Keep keep, Mixing mixing,
               PerCpuLocks locks = PerCpuLocks::kFree,
               const Zone* tried = nullptr);
  Pfn AllocateSlowPath(const Request& request);
  // After reclaim and a drain; and after memory in flight came back.
  Pfn TakeReclaimed(const Request& request);
  Pfn WaitForIsolated(const Request& request);
  // With what lies in anyone's per-CPU lists.
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
  // End the process, with what is wrong.
  [[gnu::cold]] void RejectRequest(int cpu, Order order, Gfp gfp) const;
  [[gnu::cold]] void RejectFree(int cpu, Pfn pfn, Order order) const;

  // The first that is done to a block that its owner frees. False if a device
  // may write to it yet: then it stays allocated, and its last Unpin frees it.
  // REQUIRES: options_.poison is not null.
  bool FillFreed(Pfn pfn, Order order);
  // Returns the observer to Wake, or null.
  FreeBlockObserver* FreeToZone(Zone& zone, Pfn pfn, Order order);
  // The frees of nearly all: to a list of the vCPU's. False for the others.
  bool FreeListed(int cpu, Pfn pfn, Order order);
  void FreeUnlisted(int cpu, Pfn pfn, Order order);

  // For MemoryHotplug. `range` is in whole sections.
  void OnlineMemory(Zone& zone, PfnRange range)
      ABSL_LOCKS_EXCLUDED(memory_lock_);
  // REQUIRES: as Zone::RemoveMemory.
  void OfflineMemory(Zone& zone, PfnRange range)
      ABSL_LOCKS_EXCLUDED(memory_lock_);
  // Frees the metadata. REQUIRES: it is offline.
  void ForgetMemory(PfnRange range) { pages_->Release(range); }
  // Whether a page of `range` is some zone's.
  bool AnyOnline(PfnRange range) const;

  // What depends on the sizes of zones: watermarks, per-CPU limits, zonelists.
  // Returns the observer to Wake, or null.
  [[nodiscard]] FreeBlockObserver* ZonesResized()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(memory_lock_);

  const PageAllocatorOptions options_;
  const uint32_t per_cpu_orders_;
  const unsigned cpus_;
  const std::vector<int> cpu_nodes_;
  const NodeDistances distances_;
  std::unique_ptr<PageMap> pages_;
  std::vector<std::unique_ptr<Zone>> zones_;
  unsigned zone_count_ = 0;
  // By cpu, then by zone.
  std::vector<std::unique_ptr<PerCpuPages>> per_cpu_;
  std::unique_ptr<RareEvents[]> events_;
  // Where a vCPU's local requests look first: its lists of that zone, or null.
  // By cpu, then by the highest zone that the request may use.
  std::unique_ptr<std::atomic<PerCpuPages*>[]> first_choices_;
  Counter min_free_kbytes_;

  // The zonelists that requests read without a lock: one of all there were.
  std::atomic<const Zonelists*> zonelists_{nullptr};

  // Which memory is online, and who is told of it. Outside everything else of
  // the allocator.
  Mutex memory_lock_;
  FreeBlockObserver* observer_ ABSL_GUARDED_BY(memory_lock_) = nullptr;
  std::vector<std::unique_ptr<const Zonelists>> all_zonelists_
      ABSL_GUARDED_BY(memory_lock_);

  // Held while reclaimers work.
  Mutex reclaim_lock_;
  std::vector<Reclaimer*> reclaimers_ ABSL_GUARDED_BY(reclaim_lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
