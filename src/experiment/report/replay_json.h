#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_JSON_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_JSON_H_

// The parts of a replay's JSON that summary.json and report.html share.

#include <optional>

#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"
#include "nlohmann/json.hpp"

namespace guestmm {

inline nlohmann::ordered_json CountersJson(const ReplayCounters& counters) {
  return {{"events", counters.events},
          {"allocations", counters.allocations},
          {"frees", counters.frees},
          {"lost_events", counters.lost_events},
          {"bad_lines", counters.bad_lines},
          {"unmatched_frees", counters.unmatched_frees},
          {"split_frees", counters.split_frees},
          {"forced_placements", counters.forced_placements},
          {"failed_allocations", counters.failed_allocations},
          {"outside_memory", counters.outside_memory}};
}

inline nlohmann::ordered_json UnmanagedJson(const UnmanagedBytes& unmanaged) {
  return {{"unmanaged_bytes", unmanaged.at_start()},
          {"unmanaged_uninitialized_bytes", unmanaged.uninitialized},
          {"unmanaged_offline_bytes", unmanaged.offline},
          {"unmanaged_no_page_bytes", unmanaged.no_page},
          {"unmanaged_added_bytes", unmanaged.added}};
}

// Null without truth or without a sample; a figure with nothing to compare is
// null.
inline nlohmann::ordered_json FidelityJson(const Recording& recording,
                                           const ReplayResult& result) {
  if (!recording.has_truth() || result.samples.empty() ||
      result.memory_bytes == 0) {
    return nullptr;
  }
  const Fidelity fidelity = CompareToTruth(recording, result);
  const auto json = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nullptr;
  };
  return {{"truth_reported_bytes", fidelity.truth_reported_bytes},
          {"block_match", json(fidelity.block_match)},
          {"resident_mae_percent", json(fidelity.resident_mae_percent)},
          {"buddyinfo_distance", json(fidelity.buddyinfo_distance)}};
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_JSON_H_
