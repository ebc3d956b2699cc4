#ifndef GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
#define GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_

#include <string_view>

#include "absl/status/status.h"

namespace guestmm::tools {

inline constexpr int kExitSuccess = 0;
inline constexpr int kExitFailure = 1;  // the command failed
inline constexpr int kExitUsage = 2;    // an error in its arguments
// SIGINT ended the command, which has printed and written what was done.
inline constexpr int kExitInterrupted = 130;

// Prints one line on stderr, of `command`, `prefix` and the status's message,
// AsGiven.
// Returns the exit status: kExitUsage for InvalidArgument, else kExitFailure.
int Fail(std::string_view command, const absl::Status& status,
         std::string_view prefix = "");

// The same for an error in a file that was read, or in what was run. Returns
// kExitFailure: it is no error in the arguments.
int FailReading(std::string_view command, const absl::Status& status);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
