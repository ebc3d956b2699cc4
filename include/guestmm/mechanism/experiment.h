#ifndef GUESTMM_MECHANISM_EXPERIMENT_H_
#define GUESTMM_MECHANISM_EXPERIMENT_H_

// What every experiment has: rows that are named.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/reporting/policies.h"

namespace guestmm {

// The name of a run without reporting.
inline constexpr std::string_view kPolicyOff = "off";
// What the kernel of a recording's guest reported itself.
inline constexpr std::string_view kPolicyReal = "real";
// The row of an ideal that gives every free 4 KiB page back at once.
inline constexpr std::string_view kPolicyLimit = "limit";

// InvalidArgument unless each of `names` is among `allowed`, and there once. It
// begins with the name of the option, "policies" where a name is of a "policy".
absl::Status CheckNames(std::string_view option, std::string_view kind,
                        const std::vector<std::string>& names,
                        const std::vector<std::string>& allowed);

// Checks policies as `--policies` takes them, off and `besides` among them:
// each is given once, can be made in `context`, and each default is a parameter
// of at least one of them. The error is an OptionError.
absl::Status CheckPolicies(const std::vector<std::string>& policies,
                           const PolicyDefaults& defaults,
                           const PolicyContext& context,
                           const std::vector<std::string>& besides = {});

}  // namespace guestmm

#endif  // GUESTMM_MECHANISM_EXPERIMENT_H_
