// The density experiment's files: summary.json and series.csv.

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/fields_json.h"
#include "src/experiment/report/summary.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json ConfigJson(const DensitySetup& setup) {
  const DensityOptions& options = setup.options;
  const auto field = [&](std::string_view name) {
    return FieldJson(DensityFields(), options, name);
  };
  return {{"scale", field("scale")},
          {"guest_bytes", setup.guest_bytes},
          {"host_bytes", setup.host_bytes},
          {"footprint_bytes", setup.footprint_bytes},
          {"workload_min_bytes", setup.workload_min_bytes},
          {"policies", options.policies},
          {"policy_parameters",
           PolicyParametersJson(options.policies, options.policy_parameters,
                                setup.granule)},
          {"hypervisor", field("hypervisor")},
          {"huge_pages", field("huge-pages")},
          {"vmm", field("vmm")},
          {"idle_activity", field("idle-activity")},
          {"settle_seconds", field("settle")},
          {"max_guests", field("max-guests")}};
}

Json RowJson(const DensityRow& row) {
  Json launches = Json::array();
  for (const DensityLaunch& launch : row.launches) {
    launches.push_back({{"workload_bytes", launch.workload_bytes},
                        {"host_peak_bytes", launch.host_peak_bytes},
                        {"resident_bytes", launch.resident_bytes}});
  }
  // The name of the policy, without the parameters that its text may set.
  return {{"mechanism", MechanismText(row.policy)},
          {"policy", row.policy.substr(0, row.policy.find(':'))},
          {"guests", row.guests},
          {"resident_bytes", row.resident_bytes},
          {"reported_bytes", row.reported_bytes},
          {"discarded_bytes", OrNull(row.discarded_bytes)},
          {"reports", OrNull(row.reports)},
          {"discard_calls", OrNull(row.discard_calls)},
          {"seconds", OrNull(row.seconds)},
          {"stopped", row.stopped},
          {"launches", launches}};
}

}  // namespace

std::string DensitySummaryJson(const DensityResult& result) {
  Json rows = Json::array();
  for (const DensityRow& row : result.rows) rows.push_back(RowJson(row));
  return SummaryJson({.schema_version = kSchemaVersion,
                      .experiment = "density",
                      .mode = result.setup.real_time ? "real" : "virtual",
                      .config = ConfigJson(result.setup),
                      .seed = result.setup.options.seed,
                      .host = result.host,
                      .rows = rows});
}

std::string DensitySeriesCsv(const DensityResult& result) {
  std::string csv = "policy,seconds,guests,resident_bytes,mechanism\n";
  for (const DensitySample& sample : result.samples) {
    absl::StrAppend(&csv, sample.policy, ",",
                    absl::StrFormat("%.3f", sample.seconds), ",", sample.guests,
                    ",", sample.resident_bytes, ",",
                    MechanismText(sample.policy), "\n");
  }
  return csv;
}

}  // namespace guestmm
