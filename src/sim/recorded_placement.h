#ifndef GUESTMM_SRC_SIM_RECORDED_PLACEMENT_H_
#define GUESTMM_SRC_SIM_RECORDED_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "src/sim/followed_per_cpu.h"
#include "src/sim/trace_placement.h"

namespace guestmm {

// On the trace's own pfns (Placement::kRecorded). The zones are the
// allocator's; the vCPUs' lists are not, but what the real ones must have held.
class RecordedPlacement final : public TracePlacement {
 public:
  RecordedPlacement(const Recording& recording, PageAllocator& allocator,
                    HostLedger& ledger, ReplayCounters& counters);

 private:
  void Allocate(const TraceEvent& event, Nanoseconds now) override;
  void Free(const TraceEvent& event) override;

  // What should have been free is not, or not all: whatever it is, it is
  // allocated now. Unless it is on its way to the host: then it stays that.
  void Force(Zone& zone, Pfn pfn, Order order, MigrateType type);
  // Gives what is in back_ to the zone.
  void GiveBack(Zone& zone);

  // In per_cpu_, of the event's vCPU.
  uint32_t IndexOf(const TraceEvent& event, const Zone& zone) const;
  // Calls visit(head, order) for each block that has a page of this one.
  template <typename Visit>
  void ForEachBlock(Pfn pfn, Order order, const Visit& visit) const;
  bool AnyCached(Pfn pfn, Order order) const;
  // Blocks with a page of this one that are cached are not any more, and
  // allocated.
  void Uncache(Pfn pfn, Order order);

  // By vCPU, then by zone.
  std::vector<FollowedPerCpu> per_cpu_;
  // Blocks that are in one of them, which to the zone are allocated, by pfn:
  // the index of which.
  absl::flat_hash_map<uint64_t, uint32_t> cached_;
  FollowedPerCpu::Blocks back_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_RECORDED_PLACEMENT_H_
