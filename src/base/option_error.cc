#include "guestmm/base/option_error.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace guestmm {

absl::Status OptionError(std::string_view option, std::string_view value,
                         std::string_view rule) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--", std::string(option), "=",
      value.empty() ? "\"\"" : std::string(value), ": ", std::string(rule)));
}

}  // namespace guestmm
