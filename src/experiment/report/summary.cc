#include "src/experiment/report/summary.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "guestmm/base/version.h"
#include "guestmm/mechanism/mechanisms.h"
#include "src/experiment/report/commit.h"
#include "src/experiment/report/sha256.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

Json HostJson(const HostInfo& host) {
  return {{"page_size", host.page_size},
          {"kernel", host.kernel},
          {"thp", host.thp},
          {"cpu", host.cpu},
          {"memory_bytes",
           host.memory_bytes ? Json(*host.memory_bytes) : Json(nullptr)}};
}

Json VersionsJson() {
#if defined(__clang__)
  const char* const compiler = "clang " __clang_version__;
#else
  const char* const compiler = "gcc " __VERSION__;
#endif
  return {{"guestmm", GUESTMM_VERSION},
          {"commit", Commit()},
          {"compiler", compiler}};
}

// A file's size and hash; null for what is no regular file, or cannot be read.
Json InputJson(const std::string& path) {
  Json json = {{"path", path}, {"bytes", nullptr}, {"sha256", nullptr}};
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return json;
  std::ifstream file(path, std::ios::binary);
  Sha256 hash;
  uint64_t bytes = 0;
  std::vector<char> buffer(size_t{1} << 16);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    const auto got = static_cast<size_t>(file.gcount());
    hash.Add({buffer.data(), got});
    bytes += got;
  }
  if (!file.eof()) return json;
  json["bytes"] = bytes;
  json["sha256"] = hash.Finish();
  return json;
}

Json RunJson(const RunInfo& run) {
  Json inputs = Json::array();
  for (const std::string& path : run.inputs) inputs.push_back(InputJson(path));
  return {{"command", run.command},
          {"date", run.date},
          {"wall_seconds", run.wall_seconds},
          {"inputs", inputs}};
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
  json["run"] = RunJson(summary.run);
  json["complete"] = summary.complete;
  if (!summary.error.ok()) {
    const std::string message(summary.error.message());
    json["error"] = message;
  }
  json["rows"] = summary.rows;
  if (!summary.verdict.is_null()) json["verdict"] = summary.verdict;
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
