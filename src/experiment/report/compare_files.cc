// Writes and reads the files of compare: summary.json and series.csv.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/workload/recipes.h"
#include "nlohmann/json.hpp"
#include "src/experiment/compare/compare_rows.h"
#include "src/experiment/compare/compare_run.h"
#include "src/experiment/report/fields_json.h"
#include "src/experiment/report/replay_json.h"
#include "src/experiment/report/series_csv.h"
#include "src/experiment/report/sha256.h"
#include "src/experiment/report/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCompareSchemaVersion = 1;

// Six decimals are more than any column is accurate to.
double Rounded(double value) { return std::round(value * 1e6) / 1e6; }

Json ToJson(double value) { return Rounded(value); }
Json ToJson(const std::optional<double>& value) {
  return value ? Json(Rounded(*value)) : Json(nullptr);
}
Json ToJson(const std::optional<uint64_t>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json ConfigJson(const CompareResult& result) {
  const CompareOptions& options = result.options;
  Json workloads = Json::object();
  for (const WorkloadInfo& workload : WorkloadInfos()) {
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
  for (const CompareRecording& recording : result.recordings) {
    const std::string& name = recording.workload;
    Json& json =
        workloads[name] = {{"guest_bytes", recording.guest_bytes},
                           {"duration_s", Rounded(recording.duration_seconds)},
                           {"granule_bytes", GranuleOf(options, name).bytes()},
                           {"rest_s", Rounded(RestSecondsOf(options, name))}};
    json.update(CountersJson(recording.counters));
  }
  // Of the workloads by name, or if there are none, of the recordings.
  const auto named = std::find_if_not(options.workloads.begin(),
                                      options.workloads.end(), IsRecording);
  const std::string& one =
      named == options.workloads.end() ? options.workloads.front() : *named;
  return {
      {"policies", options.policies},
      {"policy_parameters",
       PolicyParametersJson(options.policies, options.policy_parameters,
                            GranuleOf(options, one))},
      {"kernel", kKernelVersionNames[static_cast<size_t>(KernelOf(options))]},
      {"workloads", workloads},
      {"reportable_order", options.reportable_order->value()},
      {"granule_bytes", GranuleOf(options, one).bytes()},
      {"khugepaged", options.khugepaged},
      {"rest_s", Rounded(RestSecondsOf(options, one))},
      {"repeats", options.repeats},
      {"processes", options.processes},
      {"costs_ns", FieldsJson(CostFields(), options.costs)},
      {"costs_sha256", Sha256::Of(CostsJson(options.costs))}};
}

Json RowJson(const CompareRow& row) {
  // The name of the policy, without the parameters that its text may set.
  Json json = {{"workload", row.workload},
               {"mechanism", MechanismText(row.policy)},
               {"policy", row.policy.substr(0, row.policy.find(':'))}};
  ForEachColumn(
      [&](const char* name, auto column) { json[name] = ToJson(row.*column); });
  Json& loss = json["loss"] = nullptr;
  if (row.loss) {
    ForEachLoss([&](const char* name, auto column) {
      loss[name] = ToJson((*row.loss).*column);
    });
  }
  return json;
}

absl::Status BadFile(std::string_view file, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(file), ": ", what));
}

// Sets `value` from a JSON value. False if it has another type.
bool Take(const Json& json, std::string& value) {
  if (json.is_string()) value = json.get<std::string>();
  return json.is_string();
}
bool Take(const Json& json, double& value) {
  if (json.is_number()) value = json.get<double>();
  return json.is_number();
}
bool Take(const Json& json, uint64_t& value) {
  if (json.is_number_unsigned()) value = json.get<uint64_t>();
  return json.is_number_unsigned();
}
template <typename T>
bool Take(const Json& json, std::optional<T>& value) {
  value.reset();
  return json.is_null() || Take(json, value.emplace());
}

std::string_view Expected(const std::string&) { return "a string"; }
std::string_view Expected(double) { return "a number"; }
std::string_view Expected(const std::optional<double>&) {
  return "a number or null";
}
std::string_view Expected(const std::optional<uint64_t>&) {
  return "a whole number or null";
}

// Reads the fields of one object, which is at `place` in a file.
class ObjectReader {
 public:
  ObjectReader(std::string_view file, std::string place, const Json& object)
      : file_(file), place_(std::move(place)), object_(object) {
    if (!object.is_object()) {
      status_ = BadFile(file, absl::StrCat(place_, ": must be an object"));
    }
  }

  template <typename T>
  void Read(const char* name, T& value) {
    if (!status_.ok()) return;
    const auto field = object_.find(name);
    if (field == object_.end()) {
      status_ =
          BadFile(file_, absl::StrCat(place_, ".", name, ": must be present"));
    } else if (!Take(*field, value)) {
      status_ = BadFile(
          file_, absl::StrCat(place_, ".", name, "=", field->dump(),
                              ": must be ", std::string(Expected(value))));
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  const std::string_view file_;
  const std::string place_;
  const Json& object_;
  absl::Status status_;
};

absl::StatusOr<CompareRow> ParseRow(std::string_view file,
                                    const std::string& place,
                                    const Json& json) {
  CompareRow row;
  ObjectReader reader(file, place, json);
  std::string mechanism;
  reader.Read("workload", row.workload);
  reader.Read("mechanism", mechanism);
  row.policy = PolicyText(mechanism);
  ForEachColumn(
      [&](const char* name, auto column) { reader.Read(name, row.*column); });
  if (!reader.status().ok()) return reader.status();
  const auto loss = json.find("loss");
  if (loss == json.end() || loss->is_null()) return row;
  ObjectReader losses(file, place + ".loss", *loss);
  row.loss = CompareRow::Loss{};
  ForEachLoss([&](const char* name, auto column) {
    losses.Read(name, (*row.loss).*column);
  });
  if (!losses.status().ok()) return losses.status();
  return row;
}

}  // namespace

std::string CompareSummaryJson(const CompareResult& result) {
  Json rows = Json::array();
  for (const CompareRow& row : result.rows) rows.push_back(RowJson(row));
  const std::string mode = CompareFields().Format(result.options, "mode");
  return SummaryJson({.schema_version = kCompareSchemaVersion,
                      .experiment = "compare",
                      .mode = mode,
                      .config = ConfigJson(result),
                      .seed = result.options.seed,
                      .host = result.host,
                      .run = result.run,
                      .complete = result.complete,
                      .error = result.status,
                      .rows = rows});
}

std::string CompareSeriesCsv(const CompareResult& result) {
  SeriesCsv csv;
  for (const CompareSample& sample : result.samples) {
    csv.Add({.workload = sample.workload,
             .policy = sample.policy,
             .mechanism = MechanismText(sample.policy),
             .repeat = sample.repeat,
             .seconds = sample.seconds,
             .guests = {},
             .resident_bytes = sample.resident_bytes,
             .free_bytes = sample.free_bytes,
             .isolated_bytes = {},
             .host_share_of_free = sample.host_share_of_free});
  }
  return csv.text();
}

absl::StatusOr<std::vector<CompareRow>> ParseCompareSummary(
    std::string_view file, std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadFile(file, "must be a JSON object");
  const auto is = [&](const char* name, const Json& value) {
    const auto field = json.find(name);
    return field != json.end() && *field == value;
  };
  if (!is("experiment", "compare") ||
      !is("schema_version", kCompareSchemaVersion)) {
    return BadFile(file, absl::StrCat("experiment and schema_version: must be "
                                      "\"compare\" and ",
                                      kCompareSchemaVersion));
  }
  const auto rows = json.find("rows");
  if (rows == json.end() || !rows->is_array()) {
    return BadFile(file, "rows: must be an array");
  }
  std::vector<CompareRow> result;
  for (size_t i = 0; i < rows->size(); ++i) {
    absl::StatusOr<CompareRow> row =
        ParseRow(file, absl::StrCat("rows[", i, "]"), (*rows)[i]);
    if (!row.ok()) return row.status();
    result.push_back(*std::move(row));
  }
  return result;
}

absl::StatusOr<std::vector<CompareSample>> ParseCompareSeries(
    std::string_view file, std::string_view text) {
  const absl::StatusOr<std::vector<SeriesSample>> parsed =
      ParseSeriesCsv(file, text);
  if (!parsed.ok()) return parsed.status();
  std::vector<CompareSample> samples;
  for (const SeriesSample& sample : *parsed) {
    samples.push_back({.workload = sample.workload,
                       .policy = sample.policy,
                       .repeat = sample.repeat.value_or(1),
                       .seconds = sample.seconds,
                       .resident_bytes = sample.resident_bytes,
                       .free_bytes = sample.free_bytes.value_or(0),
                       .host_share_of_free = sample.host_share_of_free});
  }
  return samples;
}

}  // namespace guestmm
