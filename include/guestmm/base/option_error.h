#ifndef GUESTMM_BASE_OPTION_ERROR_H_
#define GUESTMM_BASE_OPTION_ERROR_H_

#include <string_view>

#include "absl/status/status.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// InvalidArgument for an option as the command line spells it, without dashes,
// and its value. `rule` says what the value must be:
//
//   OptionError("vcpus", "0", "must be 1 to 64")
//   // "--vcpus=0: must be 1 to 64"
//
// An empty value is printed as "".
absl::Status OptionError(std::string_view option, std::string_view value,
                         std::string_view rule);

}  // namespace guestmm

#endif  // GUESTMM_BASE_OPTION_ERROR_H_
