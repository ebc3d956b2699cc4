// summary.json and series.csv of replays.

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/experiment/report/replay_report.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/fields_json.h"
#include "src/experiment/report/replay_json.h"
#include "src/experiment/report/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

Json RowJson(const Recording& recording, const ReplayResult& result) {
  const Residency resident = ReplayedResidency(result).value_or(Residency{});
  const std::string& policy = result.options.policy;
  Json row = {{"mechanism", MechanismText(policy)},
              {"policy", policy.substr(0, policy.find(':'))},
              {"placement", Name(result.options.placement)},
              {"source", "replay"},
              {"memory_bytes", result.memory_bytes},
              {"duration_seconds", ToSeconds(result.end - result.start)}};
  row.update(CountersJson(result.counters));
  row.update(UnmanagedJson(result.unmanaged));
  if (!result.error.empty()) row["error"] = result.error;
  row.update({{"reported_bytes", result.reported_bytes},
              {"needless_bytes", result.needless_bytes},
              {"passes", result.passes.size()},
              {"resident_mean_bytes", resident.mean_bytes},
              {"resident_end_bytes", resident.end_bytes}});
  const Json fidelity = FidelityJson(recording, result);
  if (!fidelity.is_null()) row.update(fidelity);
  return row;
}

// The row of the real guest.
Json TruthRowJson(const ReplayTruth& truth) {
  const auto bytes = [&](uint64_t Residency::*member) {
    return truth.resident ? Json((*truth.resident).*member) : Json(nullptr);
  };
  return {{"mechanism", kMechanismReal},
          {"policy", kMechanismReal},
          {"source", "recording"},
          {"reported_bytes", truth.reported_bytes},
          {"needless_bytes", truth.needless_bytes},
          {"resident_mean_bytes", bytes(&Residency::mean_bytes)},
          {"resident_end_bytes", bytes(&Residency::end_bytes)}};
}

// The inverse of MemoryMap::Parse.
std::string FormatMemory(const std::vector<GpaRange>& memory) {
  return absl::StrJoin(
      memory, ",", [](std::string* out, const GpaRange& range) {
        absl::StrAppendFormat(out, "%#x-%#x", range.gpa.value(),
                              (range.gpa + range.bytes).value());
      });
}

}  // namespace

std::string ReplaySummaryJson(const Recording& recording,
                              std::span<const ReplayResult> results,
                              const std::optional<ReplayTruth>& truth) {
  Json rows = Json::array();
  std::vector<std::string> policies;
  for (const ReplayResult& result : results) {
    rows.push_back(RowJson(recording, result));
    policies.push_back(result.options.policy);
  }
  if (truth) rows.push_back(TruthRowJson(*truth));
  const ReplayOptions options =
      results.empty() ? ReplayOptions{} : results.front().options;
  Json config = {{"trace", recording.trace_path},
                 {"memory", FormatMemory(recording.memory)},
                 {"policies", policies},
                 {"policy_parameters",
                  PolicyParametersJson(policies, options.policy_parameters,
                                       options.granule)},
                 {"placement", Name(options.placement)},
                 {"granule_order", options.granule.value()},
                 {"touch", FormatTouch(options.touch)},
                 {"sample_interval_s", ToSeconds(options.sample_interval)},
                 {"tail_s", ToSeconds(options.tail)},
                 {"skip_bad", options.read.skip_bad}};
  config["costs_ns"] = FieldsJson(CostFields(), options.costs);
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
  std::string csv =
      "policy,time_s,resident_bytes,free_bytes,isolated_bytes,mechanism\n";
  for (const Recording::Resident& real : recording.resident) {
    absl::StrAppendFormat(&csv, "truth,%.3f,%d,,,%s\n", ToSeconds(real.time),
                          real.bytes, kMechanismReal);
  }
  for (const ReplayResult& result : results) {
    const std::string& policy = result.options.policy;
    const std::string mechanism = MechanismText(policy);
    for (const ReplaySample& sample : result.samples) {
      absl::StrAppendFormat(&csv, "%s,%.3f,%d,%d,%d,%s\n", policy,
                            ToSeconds(sample.time), sample.resident_bytes,
                            sample.free_bytes, sample.isolated_bytes,
                            mechanism);
    }
  }
  return csv;
}

}  // namespace guestmm
