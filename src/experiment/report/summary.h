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
  // Absent: it has but one.
  std::optional<std::string_view> mode = {};
  nlohmann::ordered_json config;
  uint64_t seed = 0;
  HostInfo host;
  nlohmann::ordered_json rows;
};

// As text. The only parts that may differ between two runs in virtual time are
// `host`: {page_size, kernel, thp, memory_bytes}, and `versions`: {guestmm,
// compiler}.
std::string SummaryJson(const Summary& summary);

// The parameters of each of the policies, by its text, on a host with that
// granule; nothing for a row that is no policy, such as off. REQUIRES:
// CheckPolicies.
nlohmann::ordered_json PolicyParametersJson(
    const std::vector<std::string>& policies, const PolicyDefaults& defaults,
    Order granule);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_SUMMARY_H_
