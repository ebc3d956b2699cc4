#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_

// The summary.json of an experiment.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/host/accounting/run_info.h"
#include "guestmm/reporting/policies.h"
#include "nlohmann/json.hpp"

namespace guestmm {

struct Summary {
  int schema_version = 0;
  std::string_view experiment;
  // Unset for an experiment that has one mode only.
  std::optional<std::string_view> mode = {};
  nlohmann::ordered_json config;
  uint64_t seed = 0;
  HostInfo host;
  RunInfo run;
  // False if the run was interrupted, or ended by an error.
  bool complete = true;
  absl::Status error = {};
  nlohmann::ordered_json rows;
  // Null for an experiment without one.
  nlohmann::ordered_json verdict = {};
};

// The text of a summary.json:
//
//   {schema_version, experiment, mode, config, seed, versions, host, run,
//    complete, error, rows, verdict}
//
// docs/summary.schema.json describes it. Two runs in virtual time with the same
// options may differ only in `versions`, {guestmm, commit, compiler}, `host`,
// {page_size, kernel, thp, cpu, memory_bytes}, and `run`, {command, date,
// wall_seconds, inputs}.
std::string SummaryJson(const Summary& summary);

// The parameters of each policy, by the policy's text, on a host with that
// granule. Names that are no policies, such as off, are skipped. REQUIRES:
// CheckMechanisms.
nlohmann::ordered_json PolicyParametersJson(
    const std::vector<std::string>& policies, const PolicyDefaults& defaults,
    Order granule);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_
