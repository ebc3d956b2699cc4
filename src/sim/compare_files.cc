// The files that the comparison leaves: summary.json and series.csv.

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/sim/compare.h"
#include "nlohmann/json.hpp"
#include "src/sim/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCompareSchemaVersion = 1;

// Six decimals are more than any column is good for.
double Rounded(double value) { return std::round(value * 1e6) / 1e6; }

Json ToJson(const std::optional<double>& value) {
  return value ? Json(Rounded(*value)) : Json(nullptr);
}
Json ToJson(const std::optional<uint64_t>& value) {
  return value ? Json(*value) : Json(nullptr);
}

std::string_view Name(CompareMode mode) {
  return mode == CompareMode::kVirtual ? "virtual" : "real";
}

Json ConfigJson(const CompareOptions& options) {
  Json parameters = Json::object();
  for (const std::string& name : options.policies) {
    if (name == kPolicyOff) continue;
    Json& policy = parameters[name] = Json::object();
    const auto made = MakePolicy(name, options.policy_parameters);
    for (const auto& [parameter, value] : (*made)->parameters()) {
      policy[std::string(parameter)] = value;
    }
  }
  Json workloads = Json::object();
  for (const CompareWorkload& workload : CompareWorkloads()) {
    if (std::find(options.workloads.begin(), options.workloads.end(),
                  workload.name) == options.workloads.end()) {
      continue;
    }
    workloads[workload.name] = {
        {"guest_bytes", options.guest_bytes.value_or(workload.guest_bytes)},
        {"nodes", workload.nodes},
        {"vcpus", options.vcpus.value_or(workload.vcpus)},
        {"duration_s", Rounded(options.duration_seconds.value_or(
                           workload.duration_seconds))}};
  }
  Json costs = Json::object();
  for (const CostField& field : CostFields()) {
    costs[std::string(field.name)] = options.costs.*field.value;
  }
  return {{"policies", options.policies},
          {"policy_parameters", parameters},
          {"workloads", workloads},
          {"reportable_order", options.reportable_order->value()},
          {"granule_bytes", options.granule.bytes()},
          {"rest_s", Rounded(*options.rest_seconds)},
          {"repeats", options.repeats},
          {"costs_ns", costs}};
}

Json RowJson(const CompareRow& row) {
  Json loss = nullptr;
  if (row.loss) {
    loss = {{"hook", Rounded(row.loss->hook)},
            {"isolation", Rounded(row.loss->isolation)},
            {"discard", Rounded(row.loss->discard)},
            {"fault_back", Rounded(row.loss->fault_back)},
            {"zeroing", Rounded(row.loss->zeroing)}};
  }
  return {{"workload", row.workload},
          {"policy", row.policy},
          {"host_share_of_free", ToJson(row.host_share_of_free)},
          {"host_share_of_reportable", ToJson(row.host_share_of_reportable)},
          {"time_to_50_s", ToJson(row.time_to_50_s)},
          {"time_to_90_s", ToJson(row.time_to_90_s)},
          {"time_to_99_s", ToJson(row.time_to_99_s)},
          {"footprint_gib_min", Rounded(row.footprint_gib_min)},
          {"reported_over_needed", ToJson(row.reported_over_needed)},
          {"refaults_1s", ToJson(row.refaults_1s)},
          {"reports", ToJson(row.reports)},
          {"kicks", ToJson(row.kicks)},
          {"discard_calls", ToJson(row.discard_calls)},
          {"lock_max_us", ToJson(row.lock_max_us)},
          {"lock_mean_us", ToJson(row.lock_mean_us)},
          {"failed_while_isolated", ToJson(row.failed_while_isolated)},
          {"work", ToJson(row.work)},
          {"work_share_of_off", ToJson(row.work_share_of_off)},
          {"loss", loss}};
}

}  // namespace

std::string CompareSummaryJson(const CompareResult& result) {
  Json rows = Json::array();
  for (const CompareRow& row : result.rows) rows.push_back(RowJson(row));
  const Json summary = {{"schema_version", kCompareSchemaVersion},
                        {"experiment", "compare"},
                        {"mode", Name(result.options.mode)},
                        {"config", ConfigJson(result.options)},
                        {"seed", result.options.seed},
                        {"versions", VersionsJson()},
                        {"host", HostJson(result.host)},
                        {"rows", rows}};
  return summary.dump(2) + "\n";
}

std::string CompareSeriesCsv(const CompareResult& result) {
  std::string csv =
      "workload,policy,repeat,seconds,resident_bytes,free_bytes,"
      "host_share_of_free\n";
  for (const CompareSample& sample : result.samples) {
    absl::StrAppend(&csv, sample.workload, ",", sample.policy, ",",
                    sample.repeat, ",", absl::StrFormat("%.3f", sample.seconds),
                    ",", sample.resident_bytes, ",", sample.free_bytes, ",",
                    sample.host_share_of_free
                        ? absl::StrFormat("%.6f", *sample.host_share_of_free)
                        : "",
                    "\n");
  }
  return csv;
}

}  // namespace guestmm
