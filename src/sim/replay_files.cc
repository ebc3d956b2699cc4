// The files that a replay leaves: summary.json and series.csv.

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/sim/fidelity.h"
#include "nlohmann/json.hpp"
#include "src/sim/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

std::string_view Name(Placement placement) {
  return placement == Placement::kRecorded ? "recorded" : "guestmm";
}

Json RowJson(const Recording& recording, const ReplayResult& result) {
  const ReplayCounters& counters = result.counters;
  Json row = {
      {"policy", result.options.policy},
      {"placement", Name(result.options.placement)},
      {"events", counters.events},
      {"allocations", counters.allocations},
      {"frees", counters.frees},
      {"lost_events", counters.lost_events},
      {"bad_lines", counters.bad_lines},
      {"unmatched_frees", counters.unmatched_frees},
      {"split_frees", counters.split_frees},
      {"forced_placements", counters.forced_placements},
      {"failed_allocations", counters.failed_allocations},
      {"outside_memory", counters.outside_memory},
      {"reported_bytes", result.reported_bytes},
      {"needless_bytes", result.needless_bytes},
      {"passes", result.passes},
      {"resident_end_bytes",
       result.samples.empty() ? 0 : result.samples.back().resident_bytes}};
  if (recording.has_truth()) {
    const Fidelity fidelity = CompareToTruth(recording, result);
    row["truth_reported_bytes"] = fidelity.truth_reported_bytes;
    row["block_match"] = fidelity.block_match;
    row["resident_mae_percent"] = fidelity.resident_mae_percent;
    row["buddyinfo_distance"] = fidelity.buddyinfo_distance;
  }
  return row;
}

double Seconds(Nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

std::string ReplaySummaryJson(const Recording& recording,
                              std::span<const ReplayResult> results) {
  Json rows = Json::array();
  for (const ReplayResult& result : results) {
    rows.push_back(RowJson(recording, result));
  }
  const ReplayOptions options =
      results.empty() ? ReplayOptions{} : results.front().options;
  return SummaryJson({.schema_version = kSchemaVersion,
                      .experiment = "replay",
                      .mode = "virtual",
                      .config = {{"trace", recording.trace_path},
                                 {"placement", Name(options.placement)},
                                 {"granule_order", options.granule.value()}},
                      .seed = options.seed,
                      .host = ReadHostInfo(),
                      .rows = rows});
}

std::string ReplaySeriesCsv(const Recording& recording,
                            std::span<const ReplayResult> results) {
  std::string csv = "policy,time_s,resident_bytes,free_bytes,isolated_bytes\n";
  for (const Recording::Resident& real : recording.resident) {
    absl::StrAppendFormat(&csv, "truth,%.3f,%d,,\n", Seconds(real.time),
                          real.bytes);
  }
  for (const ReplayResult& result : results) {
    for (const ReplaySample& sample : result.samples) {
      absl::StrAppendFormat(&csv, "%s,%.3f,%d,%d,%d\n", result.options.policy,
                            Seconds(sample.time), sample.resident_bytes,
                            sample.free_bytes, sample.isolated_bytes);
    }
  }
  return csv;
}

}  // namespace guestmm
