#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "src/experiment/replay/trace_placement.h"

namespace guestmm {

// Allocates the pages that the modelled allocator picks
// (ReplayPlacement::kNative). Pages in use at the start lie where they lay.
class NativePlacement final : public TracePlacement {
 public:
  NativePlacement(const Recording& recording, PageAllocator& allocator,
                  ReplayHost& host, ReplayCounters& counters);

  void RefreshPerCpuLists() override;

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};

  void Allocate(const TraceEvent& event) override;
  void Free(const TraceEvent& event) override;
  void OnAdded(PfnRange range) override;
  void Evict(PfnRange pages) override;

  // Frees the pages that stand for the trace's block `theirs`, as one block if
  // they are one. True if they had been allocated as that block. REQUIRES: each
  // page of the block has one here.
  bool FreePages(int cpu, Pfn theirs, Order order);

  // By the trace's pfn: the pfn here, or kNone.
  std::vector<uint32_t> ours_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_NATIVE_PLACEMENT_H_
