#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/hotplugged_memory.h"
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
  // With kRecorded, `kernel`'s rules are those of its per-CPU lists, and
  // `listed`, as ListsAtStart, is what they had.
  static std::unique_ptr<TracePlacement> Create(
      ReplayPlacement placement, const Recording& recording,
      KernelVersion kernel, std::span<const TraceEvent> listed,
      PageAllocator& allocator, ReplayHost& host, ReplayCounters& counters);

  void Follow(const TraceEvent& event);

  // Does what the kernel does once a second (vmstat_interval) to per-CPU lists.
  virtual void RefreshPerCpuLists() = 0;

  // Adds the memory by which zones have grown by `now` without an event, and
  // removes what has left them. With `info`, the real free memory at this
  // moment: a section at a time, of zones that have more free pages there than
  // here, or less. Without: all that is still missing, or still there, at the
  // trace's end.
  void ResizeZones(const RecordedBuddyInfo* info, Nanoseconds now);

  // The recording's next time at which the VMM has unplugged memory that is
  // still there; the latest time there is if there is none.
  Nanoseconds next_unplug() const;
  // Removes the memory that the VMM had unplugged by `now`. Memory that is
  // isolated for the host leaves with the first event after its return.
  void Unplug(Nanoseconds now);
  // Passes over what was plugged and unplugged before `start`, which the
  // recording's memory map shows.
  void SkipPlugsBefore(Nanoseconds start);

  const UnmanagedMemory& unmanaged() const { return unmanaged_; }
  const std::vector<MemoryChange>& memory_changes() const {
    return hotplugged_.changes();
  }

 protected:
  // Allocates every page that is not free in the recording's first state. Those
  // in use are touched, so that they are resident; unmanaged ones are not.
  // Without a first state all pages are in use.
  TracePlacement(const Recording& recording, PageAllocator& allocator,
                 ReplayHost& host, ReplayCounters& counters);

  // REQUIRES for both: the allocator has all of the event's block.
  virtual void Allocate(const TraceEvent& event) = 0;
  virtual void Free(const TraceEvent& event) = 0;
  // What the real lists and zones exchanged. No effect where the modelled
  // allocator has lists of its own.
  virtual void LeaveZone(const TraceEvent&) {}
  virtual void EnterZone(const TraceEvent&) {}

  // Called before unmanaged pages, which were allocated so far, become free,
  // and after absent ones have.
  virtual void OnAdded(PfnRange) {}
  // Frees what is in use of pages that leave: the guest has moved their
  // contents. REQUIRES: they are of one zone, in whole blocks of kMaxOrder, and
  // none is isolated for the host or unmanaged.
  virtual void Evict(PfnRange pages) = 0;
  // Called when the zones' sizes and watermarks have changed.
  virtual void OnResized() {}
  // The pages of a zone that the guest's allocator manages, by zoneinfo.start
  // if it has them, and what was added and removed since.
  PageCount ManagedPages(const Zone& zone) const;

  // The recorded zone, or null.
  static const RecordedZone* FindZone(const std::vector<RecordedZone>& zones,
                                      const Zone& zone);
  static MigrateType TypeOf(const TraceEvent& event);
  // The event's vCPU, or the last one if it is out of bounds.
  int CpuOf(const TraceEvent& event) const;

  bool HasAll(Pfn pfn, Order order) const;
  // REQUIRES: the page is in a zone, as all that HasAll.
  Zone& ZoneOf(Pfn pfn) const {
    return *allocator_.zones()[allocator_.pages().pageblock(pfn).zone];
  }
  // True if the guest does not manage all of the event's block.
  bool IsUnmanaged(const TraceEvent& event) const {
    return unmanaged_.HasAnyOf(PagesOf(event.pfn, event.order));
  }

  PageAllocator& allocator_;
  ReplayHost& host_;
  ReplayCounters& counters_;

 private:
  void TakeAllBut(const RecordedPages* first);
  void MarkReported(const RecordedPages& first);
  // Sets the zones' recorded watermarks: computed ones would count unmanaged
  // memory.
  void UseRecordedWatermarks();
  // Brings the absent memory online that the event shows the guest to have: a
  // free of a pageblock or more, its block (generic_online_page); an
  // allocation, its section, as the frees were missed. True if the event shows
  // nothing else.
  bool Arrive(const TraceEvent& event);
  // Adds the unmanaged pages that the event shows the guest to have. True if it
  // frees nothing else, which is done then.
  bool AddMemoryOf(const TraceEvent& event);
  // Frees pages that were unmanaged, so that the guest has them.
  void Add(const std::vector<PfnRange>& runs);
  // Frees them, and counts them as managed.
  void FreeUnmanaged(PfnRange run);
  // Allocates pages that are free, in blocks as large as possible.
  void TakeAll(Zone& zone, PfnRange run, bool in_use)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  // Brings the absent memory that `range` touches online at `now`. The guest
  // has all of it, or only `managed`, which is in one block of it.
  // Returns it as runs.
  std::vector<PfnRange> Online(PfnRange range, std::optional<PfnRange> managed,
                               Nanoseconds now);
  // Removes the blocks of due_ that can leave at `now`.
  void RemoveDue(Nanoseconds now);
  // Queues the blocks of `range` that are online to leave. With kUnplugged, the
  // others are not resident any more either.
  enum class Leaves : bool { kOffline, kUnplugged };
  void Leave(PfnRange range, Leaves leaves);
  bool AnyIsolated(PfnRange range) const;
  bool AllFree(PfnRange range) const;
  // Sets watermarks anew, as the kernel does after hotplug.
  void SetWatermarks();
  uint64_t MinFreeKbytes() const;

  const Recording& recording_;
  UnmanagedMemory unmanaged_;
  HotpluggedMemory hotplugged_;
  // Managed pages added to each zone, less those removed, by index.
  std::vector<int64_t> added_pages_;
  // The next of Recording::plugs.
  size_t next_plug_ = 0;
  // Memory that is gone at the end, of which no plug says when, in sections.
  std::vector<PfnRange> leaving_;
  // Blocks that have to leave.
  std::vector<PfnRange> due_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_PLACEMENT_H_
