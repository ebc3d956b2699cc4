// summary.json and series.csv of replays.

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/experiment/report/replay_report.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/fields_json.h"
#include "src/experiment/report/replay_json.h"
#include "src/experiment/report/series_csv.h"
#include "src/experiment/report/sha256.h"
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
  row["memory_changes"] = MemoryChangesJson(result.memory_changes);
  if (!result.error.empty()) row["error"] = result.error;
  row.update({{"reported_bytes", result.reported_bytes},
              {"needless_bytes", result.needless_bytes},
              {"passes", result.passes.size()},
              {"resident_mean_bytes", resident.mean_bytes},
              {"resident_end_bytes", resident.end_bytes}});
  row["free_at_end"] = FreeAtEndJson(result.free_at_end);
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

}  // namespace

std::string ReplaySummaryJson(const Recording& recording, const ReplaySet& set,
                              const RunInfo& run) {
  const std::vector<ReplayResult>& results = set.results;
  Json rows = Json::array();
  for (const ReplayResult& result : results) {
    rows.push_back(RowJson(recording, result));
  }
  if (set.truth) rows.push_back(TruthRowJson(*set.truth));
  const std::vector<std::string>& policies = set.options.policies;
  const ReplayOptions& options =
      results.empty() ? set.options.replay : results.front().options;
  Json config = {
      {"trace", recording.trace_path},
      {"memory", FormatMemoryMap(recording.memory)},
      {"policies", policies},
      {"policy_parameters",
       PolicyParametersJson(policies, options.policy_parameters,
                            options.granule)},
      {"placement", Name(options.placement)},
      {"kernel",
       results.empty()
           ? ""
           : kKernelVersionNames[static_cast<size_t>(results.front().kernel)]},
      {"recorded_kernel", recording.kernel},
      {"granule_order", options.granule.value()},
      {"khugepaged", options.khugepaged},
      {"touch", FormatTouch(options.touch)},
      {"sample_interval_s", ToSeconds(options.sample_interval)},
      {"tail_s", ToSeconds(options.tail)},
      {"skip_bad", options.read.skip_bad}};
  config["costs_ns"] = FieldsJson(CostFields(), options.costs);
  config["costs_sha256"] = Sha256::Of(CostsJson(options.costs));
  if (options.speed) config["speed"] = *options.speed;
  return SummaryJson({.schema_version = kSchemaVersion,
                      .experiment = "replay",
                      .mode = Name(options.mode),
                      .config = config,
                      .seed = options.seed,
                      .host = ReadHostInfo(),
                      .run = run,
                      .complete = set.complete,
                      .error = set.status,
                      .rows = rows,
                      .verdict = results.empty() ? Json(nullptr)
                                                 : VerdictJson(JudgeReplays(
                                                       recording, results))});
}

std::string ReplaySeriesCsv(const Recording& recording,
                            std::span<const ReplayResult> results) {
  SeriesCsv csv;
  SeriesSample line;
  line.workload = recording.trace_path;
  line.policy = "truth";
  line.mechanism = kMechanismReal;
  for (const Recording::Resident& real : recording.resident) {
    line.seconds = ToSeconds(real.time);
    line.resident_bytes = real.bytes;
    csv.Add(line);
  }
  for (const ReplayResult& result : results) {
    line.policy = result.options.policy;
    line.mechanism = MechanismText(line.policy);
    for (const ReplaySample& sample : result.samples) {
      line.seconds = ToSeconds(sample.time);
      line.resident_bytes = sample.resident_bytes;
      line.free_bytes = sample.free_bytes;
      line.isolated_bytes = sample.isolated_bytes;
      csv.Add(line);
    }
  }
  return csv.text();
}

}  // namespace guestmm
