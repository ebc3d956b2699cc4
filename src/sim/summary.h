#ifndef GUESTMM_SRC_SIM_SUMMARY_H_
#define GUESTMM_SRC_SIM_SUMMARY_H_

// The parts that the summary.json of every experiment has.

#include "guestmm/sim/host_info.h"
#include "nlohmann/json.hpp"

namespace guestmm {

// {page_size, kernel, thp, memory_bytes}
nlohmann::ordered_json HostJson(const HostInfo& host);

// {guestmm, compiler}: the only part, beside the host, that may differ between
// two runs in virtual time.
nlohmann::ordered_json VersionsJson();

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_SUMMARY_H_
