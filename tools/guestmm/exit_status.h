#ifndef GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
#define GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_

#include <string_view>

#include "absl/status/status.h"

namespace guestmm::tools {

inline constexpr int kExitSuccess = 0;
inline constexpr int kExitFailure = 1;  // what was asked for could not be done
inline constexpr int kExitUsage = 2;    // what was asked for makes no sense

// Says on stderr, in one line, that `command` failed: `prefix` and the status's
// message. The exit status: kExitUsage for InvalidArgument.
int Fail(std::string_view command, const absl::Status& status,
         std::string_view prefix = "");

// The same of a file that was read. Always kExitFailure: one that is damaged or
// malformed is no mistake in the command.
int FailReading(std::string_view command, const absl::Status& status);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
