#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/replay_host.h"
#include "src/experiment/replay/unmanaged_memory.h"

namespace guestmm {

// Applies a trace's events to an allocator, and notifies the host of pages
// allocated and freed. No trace breaks the allocator's invariants.
class TracePlacement {
 public:
  virtual ~TracePlacement() = default;

  // Brings `allocator` to the recording's first state. All arguments must
  // outlive the placement. REQUIRES: all memory is free.
  static std::unique_ptr<TracePlacement> Create(ReplayPlacement placement,
                                                const Recording& recording,
                                                PageAllocator& allocator,
                                                ReplayHost& host,
                                                ReplayCounters& counters);

  void Follow(const TraceEvent& event);

  // Adds the memory by which zones have grown without an event. With `info`,
  // the real free memory at this moment: a section at a time, of zones that
  // have more free pages there than here. Without: all that is still missing at
  // the trace's end.
  void AddGrownMemory(const RecordedBuddyInfo* info);

  const UnmanagedMemory& unmanaged() const { return unmanaged_; }

 protected:
  // Allocates every page that is not free in the recording's first state. Those
  // in use are touched, so that they are resident; unmanaged ones are not.
  // Without a first state all pages are in use.
  TracePlacement(const Recording& recording, PageAllocator& allocator,
                 ReplayHost& host, ReplayCounters& counters);

  // REQUIRES for both: the allocator has all of the event's block.
  virtual void Allocate(const TraceEvent& event) = 0;
  virtual void Free(const TraceEvent& event) = 0;

  // Called before unmanaged pages, which were allocated so far, become free.
  virtual void OnAdded(PfnRange) {}

  static MigrateType TypeOf(const TraceEvent& event);
  // The event's vCPU, or the last one if it is out of bounds.
  int CpuOf(const TraceEvent& event) const;

  PageAllocator& allocator_;
  ReplayHost& host_;
  ReplayCounters& counters_;

 private:
  void TakeAllBut(const RecordedPages* first);
  void MarkReported(const RecordedPages& first);
  // Sets the zones' recorded watermarks: computed ones would count unmanaged
  // memory.
  void UseRecordedWatermarks();
  // Adds the unmanaged pages that the event shows the guest to have. True if it
  // frees nothing else, which is done then.
  bool AddMemoryOf(const TraceEvent& event);
  // Frees pages that were unmanaged.
  void Add(const std::vector<PfnRange>& runs);
  bool HasAll(Pfn pfn, Order order) const;

  const Recording& recording_;
  UnmanagedMemory unmanaged_;
  // Pages added of each zone, by index.
  std::vector<uint64_t> added_pages_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
