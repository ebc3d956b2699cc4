#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_

// The summary.json of an experiment.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guestmm/host/accounting/host_info.h"
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
  nlohmann::ordered_json rows;
};

// The text of a summary.json:
//
//   {schema_version, experiment, mode, config, seed, versions, host, rows}
//
// Two runs in virtual time with the same options may differ only in
// `versions`, {guestmm, compiler}, and `host`, {page_size, kernel, thp,
// memory_bytes}.
std::string SummaryJson(const Summary& summary);

// The parameters of each policy, by the policy's text, on a host with that
// granule. Names that are no policies, such as off, are skipped. REQUIRES:
// CheckMechanisms.
nlohmann::ordered_json PolicyParametersJson(
    const std::vector<std::string>& policies, const PolicyDefaults& defaults,
    Order granule);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_
