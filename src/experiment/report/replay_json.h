#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_JSON_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_JSON_H_

// The parts of a replay's JSON that summary.json and report.html share.

#include <cstdint>
#include <optional>
#include <vector>

#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/replay/verdict.h"
#include "guestmm/trace/recording.h"
#include "nlohmann/json.hpp"

namespace guestmm {

inline nlohmann::ordered_json CountersJson(const ReplayCounters& counters) {
  return {{"events", counters.events},
          {"allocations", counters.allocations},
          {"frees", counters.frees},
          {"touched_allocations", counters.touched_allocations},
          {"lost_events", counters.lost_events},
          {"bad_lines", counters.bad_lines},
          {"cut_lines", counters.cut_lines},
          {"unknown_gfp_allocations", counters.unknown_gfp},
          {"late_events", counters.late},
          {"late_by_seconds", ToSeconds(counters.late_by)},
          {"unmatched_frees", counters.unmatched_frees},
          {"split_frees", counters.split_frees},
          {"forced_placements", counters.forced_placements},
          {"failed_allocations", counters.failed_allocations},
          {"outside_memory", counters.outside_memory},
          {"moves", counters.moves},
          {"unfit_moves", counters.unfit_moves}};
}

inline nlohmann::ordered_json UnmanagedJson(const UnmanagedBytes& unmanaged) {
  return {{"unmanaged_bytes", unmanaged.at_start()},
          {"unmanaged_uninitialized_bytes", unmanaged.uninitialized},
          {"unmanaged_offline_bytes", unmanaged.offline},
          {"unmanaged_no_page_bytes", unmanaged.no_page},
          {"unmanaged_added_bytes", unmanaged.added}};
}

// As plug.csv: bytes that were removed are negative.
inline nlohmann::ordered_json MemoryChangesJson(
    const std::vector<MemoryChange>& changes) {
  auto json = nlohmann::ordered_json::array();
  for (const MemoryChange& change : changes) {
    const auto bytes = static_cast<int64_t>(change.range.bytes);
    json.push_back({{"time_s", ToSeconds(change.time)},
                    {"gpa", change.range.gpa.value()},
                    {"bytes", change.removed ? -bytes : bytes}});
  }
  return json;
}

inline nlohmann::ordered_json FreeAtEndJson(const FreeAtEnd& free) {
  return {{"bytes", free.bytes},
          {"with_host_bytes", free.with_host},
          {"fragmented_bytes", free.fragmented},
          {"below_order_bytes", free.below_order},
          {"below_watermark_bytes", free.below_watermark},
          {"not_due_bytes", free.not_due}};
}

inline nlohmann::ordered_json VerdictJson(const ReplayVerdict& verdict) {
  nlohmann::ordered_json memory;
  if (verdict.memory) {
    memory = {{"anonymous_bytes", verdict.memory->anonymous},
              {"page_cache_bytes", verdict.memory->page_cache},
              {"slab_bytes", verdict.memory->slab},
              {"other_bytes", verdict.memory->other},
              {"free_bytes", verdict.memory->free},
              {"unmanaged_bytes", verdict.memory->unmanaged}};
  }
  auto advice = nlohmann::ordered_json::array();
  for (const ReplayVerdict::Advice& its : verdict.advice) {
    advice.push_back({{"purpose", its.purpose}, {"command", its.command}});
  }
  return {{"memory_at_start", memory},
          {"trust", Name(verdict.trust)},
          {"doubts", verdict.doubts},
          {"advice", advice}};
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
