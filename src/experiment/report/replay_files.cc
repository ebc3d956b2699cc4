// The files that a replay leaves: summary.json and series.csv.

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/experiment/report/replay_report.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/replay_json.h"
#include "src/experiment/report/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

Json RowJson(const Recording& recording, const ReplayResult& result) {
  const std::optional<Residency> resident = ReplayedResidency(result);
  Json row = {{"policy", result.options.policy},
              {"placement", Name(result.options.placement)}};
  row.update(CountersJson(result.counters));
  if (!result.error.empty()) row["error"] = result.error;
  row.update({{"reported_bytes", result.reported_bytes},
              {"needless_bytes", result.needless_bytes},
              {"passes", result.passes.size()},
              {"resident_end_bytes", resident ? resident->end_bytes : 0}});
  const Json fidelity = FidelityJson(recording, result);
  if (!fidelity.is_null()) row.update(fidelity);
  return row;
}

// As MemoryMap::Parse takes it.
std::string FormatMemory(const std::vector<GpaRange>& memory) {
  return absl::StrJoin(
      memory, ",", [](std::string* out, const GpaRange& range) {
        absl::StrAppendFormat(out, "%#x-%#x", range.gpa.value(),
                              (range.gpa + range.bytes).value());
      });
}

}  // namespace

std::string ReplaySummaryJson(const Recording& recording,
                              std::span<const ReplayResult> results) {
  Json rows = Json::array();
  std::vector<std::string> policies;
  for (const ReplayResult& result : results) {
    rows.push_back(RowJson(recording, result));
    policies.push_back(result.options.policy);
  }
  const ReplayOptions options =
      results.empty() ? ReplayOptions{} : results.front().options;
  Json config = {{"trace", recording.trace_path},
                 {"memory", FormatMemory(recording.memory)},
                 {"policy_parameters",
                  PolicyParametersJson(policies, PolicyParametersOf(options))},
                 {"placement", Name(options.placement)},
                 {"granule_order", options.granule.value()},
                 {"touch", FormatTouch(options.touch)},
                 {"tail_s", ToSeconds(options.tail)},
                 {"skip_bad", options.read.skip_bad}};
  if (options.speed) config["speed"] = *options.speed;
  return SummaryJson({.schema_version = kSchemaVersion,
                      .experiment = "replay",
                      .mode = Name(options.mode),
                      .config = config,
                      .seed = options.seed,
                      .host = ReadHostInfo(),
                      .rows = rows});
}

std::string ReplaySeriesCsv(const Recording& recording,
                            std::span<const ReplayResult> results) {
  std::string csv = "policy,time_s,resident_bytes,free_bytes,isolated_bytes\n";
  for (const Recording::Resident& real : recording.resident) {
    absl::StrAppendFormat(&csv, "truth,%.3f,%d,,\n", ToSeconds(real.time),
                          real.bytes);
  }
  for (const ReplayResult& result : results) {
    for (const ReplaySample& sample : result.samples) {
      absl::StrAppendFormat(&csv, "%s,%.3f,%d,%d,%d\n", result.options.policy,
                            ToSeconds(sample.time), sample.resident_bytes,
                            sample.free_bytes, sample.isolated_bytes);
    }
  }
  return csv;
}

}  // namespace guestmm
