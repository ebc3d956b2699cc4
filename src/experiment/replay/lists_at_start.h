#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_LISTS_AT_START_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_LISTS_AT_START_H_

#include <cstdint>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm {

// What a trace shows of per-CPU lists.
struct ShownLists {
  // It shows blocks that zones give out, but none that lists drain: then its
  // moves cannot be followed, since lists would only grow.
  bool only_from_zones = false;
  // The requests, and those of them after the last move.
  uint64_t requests = 0;
  uint64_t requests_after_moves = 0;
  // The blocks that were in lists when the trace began: those that are not free
  // by kpageflags.start, and whose first event, which this is, is that they are
  // allocated or drained. In order. None without drains, since a page may then
  // have been drained before it is allocated; and without kpageflags.start.
  std::vector<TraceEvent> at_start;
};

// False if the recording's trace can be read only once.
bool CanBeReadAgain(const Recording& recording);

// Reads the trace. Its errors end the search. All is 0 if it can be read only
// once.
ShownLists FindShownLists(const Recording& recording,
                          const TraceReadOptions& options);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_LISTS_AT_START_H_
