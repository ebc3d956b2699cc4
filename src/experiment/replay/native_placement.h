#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "src/experiment/replay/trace_placement.h"

namespace guestmm {

// Where our allocator puts them (ReplayPlacement::kNative).
class NativePlacement final : public TracePlacement {
 public:
  NativePlacement(const Recording& recording, PageAllocator& allocator,
                  ReplayHost& host, ReplayCounters& counters);

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};

  void Allocate(const TraceEvent& event, Nanoseconds now) override;
  void Free(const TraceEvent& event, Nanoseconds now) override;
  void OnAdded(PfnRange range) override;

  // Frees what lies where these pages of the trace's do, as one block if it is
  // one. Whether it was allocated as that. REQUIRES: all of them lie somewhere.
  bool FreePages(int cpu, Pfn theirs, Order order, Nanoseconds now);

  // By the trace's pfn: where it lies here.
  std::vector<uint32_t> ours_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_
