// The density experiment's files: summary.json and series.csv.

#include <string>

#include "guestmm/experiment/density/density.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/fields_json.h"
#include "src/experiment/report/series_csv.h"
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
          {"kernel", field("kernel")},
          {"hypervisor", field("hypervisor")},
          {"huge_pages", field("huge-pages")},
          {"vmm", field("vmm")},
          {"idle_activity", field("idle-activity")},
          {"settle_seconds", field("settle")},
          {"max_guests", field("max-guests")}};
}

// `limit`: the guests that fit ideally.
Json RowJson(const DensityRow& row, int limit) {
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
          {"share_of_limit", limit > 0
                                 ? Json(static_cast<double>(row.guests) / limit)
                                 : Json(nullptr)},
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
  for (const DensityRow& row : result.rows) {
    rows.push_back(RowJson(row, result.rows.back().guests));
  }
  return SummaryJson({.schema_version = kSchemaVersion,
                      .experiment = "density",
                      .mode = result.setup.real_time ? "real" : "virtual",
                      .config = ConfigJson(result.setup),
                      .seed = result.setup.options.seed,
                      .host = result.host,
                      .run = result.run,
                      .complete = result.complete,
                      .error = result.status,
                      .rows = rows});
}

std::string DensitySeriesCsv(const DensityResult& result) {
  SeriesCsv csv;
  for (const DensitySample& sample : result.samples) {
    csv.Add({.workload = {},
             .policy = sample.policy,
             .mechanism = MechanismText(sample.policy),
             .repeat = {},
             .seconds = sample.seconds,
             .guests = static_cast<uint64_t>(sample.guests),
             .resident_bytes = sample.resident_bytes,
             .free_bytes = {},
             .isolated_bytes = {},
             .host_share_of_free = {}});
  }
  return csv.text();
}

}  // namespace guestmm
