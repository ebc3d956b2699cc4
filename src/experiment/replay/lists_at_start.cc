#include "src/experiment/replay/lists_at_start.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/status/statusor.h"
#include "src/experiment/replay/pcp_reconstruction.h"

namespace guestmm {
namespace {

bool IsInUse(RecordedPages::State state) {
  switch (state) {
    case RecordedPages::State::kAbsent:
    case RecordedPages::State::kFree:
    case RecordedPages::State::kOffline:
    case RecordedPages::State::kReserved:
      return false;
    default:
      return true;
  }
}

}  // namespace

bool CanBeReadAgain(const Recording& recording) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(recording.trace_path, ignored) ||
         std::filesystem::is_directory(recording.trace_path, ignored);
}

ShownLists FindShownLists(const Recording& recording,
                          const TraceReadOptions& options) {
  ShownLists shown;
  if (!CanBeReadAgain(recording)) return shown;
  const auto reader = OpenTrace(recording, options);
  if (!reader.ok()) return shown;
  std::vector<RecordedPages::State> states;
  if (recording.first) states = recording.first->states;
  std::vector<bool> seen(states.size());
  bool shows_drains = false;
  const auto note = [&](const TraceEvent& event) {
    if (event.is_request()) {
      ++shown.requests;
      ++shown.requests_after_moves;
    } else {
      shown.only_from_zones = true;
      shown.requests_after_moves = 0;
      shows_drains = shows_drains || event.kind == TraceEvent::Kind::kDrain;
    }
    const PfnRange block = PagesOf(event.pfn, event.order);
    if (block.end.value() > states.size()) return;
    bool was_listed = (event.kind == TraceEvent::Kind::kAlloc ||
                       event.kind == TraceEvent::Kind::kDrain) &&
                      PcpReconstruction::Caches(event.order) &&
                      event.pfn.IsAligned(event.order);
    for (uint64_t pfn = block.start.value(); pfn < block.end.value(); ++pfn) {
      was_listed = was_listed && !seen[pfn] && IsInUse(states[pfn]);
      seen[pfn] = true;
    }
    if (was_listed) shown.at_start.push_back(event);
  };
  for (auto run = (*reader)->NextRun(); run.ok() && !run->empty();
       run = (*reader)->NextRun()) {
    std::for_each(run->begin(), run->end(), note);
  }
  if (shows_drains) {
    shown.only_from_zones = false;
  } else {
    shown.at_start.clear();
  }
  return shown;
}

}  // namespace guestmm
