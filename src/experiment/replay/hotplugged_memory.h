#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_HOTPLUGGED_MEMORY_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_HOTPLUGGED_MEMORY_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// The RAM that a recorded guest gets and loses (Recording::arriving, leaving,
// plugs), in blocks of kMaxOrder: those in which the kernel frees memory that
// it onlines, and a whole number of which are in a memory block and in what
// virtio-mem plugs. Absent blocks are in no zone of the allocator.
class HotpluggedMemory {
 public:
  // Both must outlive this. REQUIRES: the allocator's section order is
  // kMaxOrder, and it may grow to the end of the recording's memory (CHECKed by
  // use).
  HotpluggedMemory(const Recording& recording, PageAllocator& allocator);

  // True if no block may arrive, nor has one that was assumed to.
  bool is_static() const { return absent_blocks_ == 0 && !any_assumed_; }
  // True if `block` is absent, at least in part, and could arrive.
  bool MayArrive(PfnRange block) const;
  // Brings the absent blocks that `range` touches online at `now`, in the zone
  // that the kernel would choose: Movable if zoneinfo.end says that they are
  // there. Returns them as runs.
  std::vector<PfnRange> Online(PfnRange range, Nanoseconds now);
  // The lowest block of `span` that may arrive and never was there; empty
  // without one.
  PfnRange LowestNew(PfnRange span) const;

  // Notes that blocks came online although no event showed it: it may follow.
  void Assume(const std::vector<PfnRange>& runs);
  bool IsAssumed(PfnRange block) const;

  // Takes a block offline at `now`, and away. FailedPrecondition, with no
  // effect, if a page of it is isolated for the host. REQUIRES: IsOnline, and
  // no page is in use, but for the allocator's per-CPU lists.
  absl::Status Remove(PfnRange block, Nanoseconds now);
  // True if all of the block is in a zone.
  bool IsOnline(PfnRange block) const;

  // What arrived and left so far, ascending by time; runs joined.
  const std::vector<MemoryChange>& changes() const { return changes_; }

 private:
  ZoneType ZoneTypeFor(PfnRange block) const;
  void Log(PfnRange block, Nanoseconds now, bool removed);

  const Recording& recording_;
  PageAllocator& allocator_;
  MemoryHotplug hotplug_;
  // By block: absent, and may arrive.
  std::vector<bool> absent_;
  size_t absent_blocks_ = 0;
  // By block: absent_, and was never there.
  std::vector<bool> new_;
  // By block: came online without an event so far.
  std::vector<bool> assumed_;
  bool any_assumed_ = false;  // ever
  std::vector<MemoryChange> changes_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_HOTPLUGGED_MEMORY_H_
