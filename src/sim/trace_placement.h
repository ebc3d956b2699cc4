#ifndef GUESTMM_SRC_SIM_TRACE_PLACEMENT_H_
#define GUESTMM_SRC_SIM_TRACE_PLACEMENT_H_

#include <memory>

#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/sim/host_ledger.h"
#include "guestmm/sim/replay.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm {

// Does to an allocator what a trace says, and says in a ledger what the guest
// touched by it.
class TracePlacement {
 public:
  virtual ~TracePlacement() = default;

  virtual void Follow(const TraceEvent& event, Nanoseconds now) = 0;

  // Brings `allocator`, all of whose memory is free, to the recording's first
  // state. All must outlive it.
  static std::unique_ptr<TracePlacement> Create(Placement placement,
                                                const Recording& recording,
                                                PageAllocator& allocator,
                                                HostLedger& ledger,
                                                ReplayCounters& counters);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_TRACE_PLACEMENT_H_
