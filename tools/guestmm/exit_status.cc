#include "tools/guestmm/exit_status.h"

#include <iostream>

#include "absl/strings/match.h"

namespace guestmm::tools {

int Fail(std::string_view command, const absl::Status& status,
         std::string_view prefix) {
  std::cerr << "guestmm " << command << ": ";
  // An OptionError names its option itself.
  if (!absl::StartsWith(status.message(), "--")) std::cerr << prefix;
  std::cerr << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

int FailReading(std::string_view command, const absl::Status& status) {
  Fail(command, status);
  return kExitFailure;
}

}  // namespace guestmm::tools
