#include "tools/guestmm/exit_status.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/guestmm/given_options.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {

int Fail(std::string_view command, const absl::Status& status,
         std::string_view prefix) {
  std::string error(status.message());
  // An OptionError names its option itself.
  if (!absl::StartsWith(error, "--")) error.insert(0, prefix);
  TellError(
      absl::StrCat("guestmm ", std::string(command), ": ", AsGiven(error)));
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

int FailReading(std::string_view command, const absl::Status& status) {
  Fail(command, status);
  return kExitFailure;
}

}  // namespace guestmm::tools
