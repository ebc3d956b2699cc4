#include "tools/guestmm/exit_status.h"

#include <iostream>

namespace guestmm::tools {

int Fail(std::string_view command, const absl::Status& status,
         std::string_view prefix) {
  std::cerr << "guestmm " << command << ": " << prefix << status.message()
            << "\n";
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

int FailReading(std::string_view command, const absl::Status& status) {
  Fail(command, status);
  return kExitFailure;
}

}  // namespace guestmm::tools
