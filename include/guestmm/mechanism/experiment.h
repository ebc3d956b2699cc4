#ifndef GUESTMM_MECHANISM_EXPERIMENT_H_
#define GUESTMM_MECHANISM_EXPERIMENT_H_

// The names of an experiment's runs, and the checks of those that users give.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/reporting/policies.h"

namespace guestmm {

// A run without reporting.
inline constexpr std::string_view kPolicyOff = kMechanismOff;
// What a recording's kernel reported itself.
inline constexpr std::string_view kPolicyReal = kMechanismReal;
// An ideal that hands back every free 4 KiB page, at once and for free.
inline constexpr std::string_view kPolicyLimit = kMechanismLimit;

// Checks the value of --policies: each entry is off, one of `besides`, or a
// policy that can be made in `context`; none stands twice; and each default is
// a parameter of at least one of them. The error is an OptionError.
absl::Status CheckPolicies(const std::vector<std::string>& policies,
                           const PolicyDefaults& defaults,
                           const PolicyContext& context,
                           const std::vector<std::string>& besides = {});

}  // namespace guestmm

#endif  // GUESTMM_MECHANISM_EXPERIMENT_H_
