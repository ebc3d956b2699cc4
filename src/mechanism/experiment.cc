#include "guestmm/mechanism/experiment.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/option_error.h"

namespace guestmm {

namespace {

// Those of `names` that have the parameter.
std::vector<std::string> PoliciesWith(const std::vector<std::string>& names,
                                      const std::string& parameter) {
  std::vector<std::string> with;
  for (const std::string& name : names) {
    const std::vector<std::string> has = Policies().ParametersOf(name);
    if (std::find(has.begin(), has.end(), parameter) != has.end()) {
      with.push_back(name);
    }
  }
  return with;
}

}  // namespace

absl::Status CheckPolicies(const std::vector<std::string>& policies,
                           const PolicyDefaults& defaults,
                           const PolicyContext& context,
                           const std::vector<std::string>& besides) {
  const std::vector<std::string> registered = PolicyNames();
  std::vector<std::string> others = {std::string(kPolicyOff)};
  others.insert(others.end(), besides.begin(), besides.end());
  std::vector<std::string> named;
  std::set<std::string_view> seen;
  for (const std::string& policy : policies) {
    if (!seen.insert(policy).second) {
      return OptionError("policies", policy, "must be given once");
    }
    if (std::find(others.begin(), others.end(), policy) != others.end()) {
      continue;
    }
    const absl::StatusOr<PolicySpec> spec = ParsePolicy(policy, defaults);
    if (!spec.ok()) return spec.status();
    if (std::find(registered.begin(), registered.end(), spec->name) ==
        registered.end()) {
      std::vector<std::string> known = {std::string(kPolicyOff)};
      known.insert(known.end(), registered.begin(), registered.end());
      known.insert(known.end(), besides.begin(), besides.end());
      return OptionError(
          "policies", policy,
          absl::StrCat("must be one of ", absl::StrJoin(known, ", ")));
    }
    const absl::Status status = MakePolicy(*spec, context).status();
    if (!status.ok()) return status;
    named.push_back(spec->name);
  }
  for (const PolicyParameter& parameter : defaults) {
    if (PoliciesWith(named, parameter.name).empty()) {
      return OptionError(
          parameter.name, parameter.value,
          absl::StrCat(
              "must be given with a policy that has it: ",
              absl::StrJoin(PoliciesWith(registered, parameter.name), ", ")));
    }
  }
  return absl::OkStatus();
}

}  // namespace guestmm
