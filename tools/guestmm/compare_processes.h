#ifndef GUESTMM_TOOLS_GUESTMM_COMPARE_PROCESSES_H_
#define GUESTMM_TOOLS_GUESTMM_COMPARE_PROCESSES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/experiment/compare/compare.h"

namespace guestmm::tools {

// Runs `resolved`, which has real runs, in as many fresh processes of this
// program as it says, one after another, and merges what they found.
// `arguments`: what the compare command was given, without --processes and
// --out. `progress` is told how many processes are done. If one fails, what it
// said goes to stderr, and the error tells how it ended.
absl::StatusOr<CompareResult> RunInProcesses(
    const CompareOptions& resolved, const std::vector<std::string>& arguments,
    const std::function<void(uint64_t done)>& progress);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_COMPARE_PROCESSES_H_
