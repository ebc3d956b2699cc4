#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_

#include <memory>

#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/replay_host.h"

namespace guestmm {

// Does to an allocator what a trace says, and tells the host what the guest
// has by it. Whatever the trace says, the allocator stays whole.
class TracePlacement {
 public:
  virtual ~TracePlacement() = default;

  // Brings `allocator`, all of whose memory is free, to the recording's first
  // state. All must outlive it.
  static std::unique_ptr<TracePlacement> Create(Placement placement,
                                                const Recording& recording,
                                                PageAllocator& allocator,
                                                ReplayHost& host,
                                                ReplayCounters& counters);

  void Follow(const TraceEvent& event, Nanoseconds now);

 protected:
  // Takes all that is not free at first, and touches it: whatever the guest has
  // in use the host has too. Without a snapshot that is everything.
  TracePlacement(const Recording& recording, PageAllocator& allocator,
                 ReplayHost& host, ReplayCounters& counters);

  // Of a block that the allocator's memory has.
  virtual void Allocate(const TraceEvent& event, Nanoseconds now) = 0;
  virtual void Free(const TraceEvent& event, Nanoseconds now) = 0;

  static MigrateType TypeOf(const TraceEvent& event);
  // The event's vCPU, or the last that there is.
  int CpuOf(const TraceEvent& event) const;

  PageAllocator& allocator_;
  ReplayHost& host_;
  ReplayCounters& counters_;

 private:
  void TakeAllBut(const RecordedPages* first);
  void MarkReported(const RecordedPages& first);
  bool HasAll(Pfn pfn, Order order) const;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
