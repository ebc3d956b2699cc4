#include "src/experiment/report/summary.h"

#include "guestmm/mechanism/mechanisms.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

Json HostJson(const HostInfo& host) {
  return {{"page_size", host.page_size},
          {"kernel", host.kernel},
          {"thp", host.thp},
          {"memory_bytes", host.memory_bytes}};
}

Json VersionsJson() {
#if defined(__clang__)
  const char* const compiler = "clang " __clang_version__;
#else
  const char* const compiler = "gcc " __VERSION__;
#endif
  return {{"guestmm", GUESTMM_VERSION}, {"compiler", compiler}};
}

}  // namespace

std::string SummaryJson(const Summary& summary) {
  Json json = {{"schema_version", summary.schema_version},
               {"experiment", summary.experiment}};
  if (summary.mode) json["mode"] = *summary.mode;
  json["config"] = summary.config;
  json["seed"] = summary.seed;
  json["versions"] = VersionsJson();
  json["host"] = HostJson(summary.host);
  json["rows"] = summary.rows;
  // Paths may hold any bytes; those that are not UTF-8 are replaced.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json PolicyParametersJson(const std::vector<std::string>& policies,
                          const PolicyDefaults& defaults, Order granule) {
  Json json = Json::object();
  for (const std::string& name : policies) {
    constexpr auto kOption = MechanismOption::kPolicies;
    const auto spec = ParseMechanism(kOption, name);
    if (!spec.ok() || !spec->is_reporting()) continue;
    const auto made =
        MakePolicy(kOption, *spec,
                   {.policy = PolicyContext(granule), .defaults = defaults});
    if (!made.ok()) continue;
    Json& policy = json[name] = Json::object();
    for (const auto& [parameter, value] : (*made)->parameters()) {
      policy[std::string(parameter)] = value;
    }
  }
  return json;
}

}  // namespace guestmm
