#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "src/experiment/replay/pcp_reconstruction.h"
#include "src/experiment/replay/trace_placement.h"

namespace guestmm {

// On the trace's own pfns (Placement::kRecorded). The zones are the
// allocator's; the vCPUs' lists are not, but what the real ones must have held.
// Both are followed through what has no event of its own: refills of the lists,
// and the bulk allocations of vmalloc and others, which show when they are
// freed.
class RecordedPlacement final : public TracePlacement {
 public:
  RecordedPlacement(const Recording& recording, PageAllocator& allocator,
                    ReplayHost& host, ReplayCounters& counters);

 private:
  void Allocate(const TraceEvent& event, Nanoseconds now) override;
  void Free(const TraceEvent& event, Nanoseconds now) override;

  // Has the event's vCPU refill its list with the block, which is free in the
  // zone, and with what comes behind it.
  void TakeByRefill(Zone& zone, const TraceEvent& event, MigrateType type,
                    uint32_t index);
  // Whether the zone would hand out this free block before all others.
  static bool IsNext(const Zone& zone, const Zone::Block& block, Order order,
                     MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  // Allocates the block, whatever its pages are, but those on their way to the
  // host: they stay that.
  void TakeWhatever(Zone& zone, Pfn pfn, Order order, MigrateType type,
                    Nanoseconds now);
  // Blocks with a page of this one that are listed had gone to the zone before.
  void GiveBackAround(Zone& zone, Pfn pfn, Order order);
  // Gives what is in back_ to the zone.
  void GiveBack(Zone& zone);
  // The type of a pageblock is that of the request that got a page of it last:
  // vCPUs' lists have blocks of pageblocks of one type.
  void LearnType(Zone& zone, Pfn pfn, MigrateType type);

  // In per_cpu_, of the event's vCPU.
  uint32_t IndexOf(const TraceEvent& event, const Zone& zone) const;
  // Calls visit(head, order) for each block that has a page of this one.
  template <typename Visit>
  void ForEachBlock(Pfn pfn, Order order, const Visit& visit) const;
  bool AnyCached(Pfn pfn, Order order) const;
  // Whether a page of it is on its way to the host.
  bool AnyInFlight(Pfn pfn, Order order) const;
  // Blocks with a page of this one that are cached are not any more, and
  // allocated.
  void Uncache(Pfn pfn, Order order);

  // By vCPU, then by zone.
  std::vector<PcpReconstruction> per_cpu_;
  // Blocks that are in one of them, which to the zone are allocated, by pfn:
  // the index of which.
  absl::flat_hash_map<uint64_t, uint32_t> cached_;
  // Of them, those supposed that began a block which was marked as reported:
  // its order.
  absl::flat_hash_map<uint64_t, Order> marked_;
  PcpReconstruction::Blocks back_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_
