#include "guestmm/mechanism/experiment.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace guestmm {

absl::Status CheckNames(std::string_view option, std::string_view kind,
                        const std::vector<std::string>& names,
                        const std::vector<std::string>& allowed) {
  std::set<std::string_view> seen;
  for (const std::string& name : names) {
    const std::string place = absl::StrCat(std::string(option), " ",
                                           name.empty() ? "\"\"" : name, ": ");
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, "there is no such ", std::string(kind),
                       "; allowed are ", absl::StrJoin(allowed, ", ")));
    }
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, "allowed is each ", std::string(kind), " once"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPolicies(const std::vector<std::string>& names,
                           const PolicyParameters& parameters,
                           const std::vector<std::string>& besides) {
  const std::vector<std::string> policies = PolicyNames();
  std::vector<std::string> allowed = {std::string(kPolicyOff)};
  allowed.insert(allowed.end(), policies.begin(), policies.end());
  allowed.insert(allowed.end(), besides.begin(), besides.end());
  absl::Status status = CheckNames("policies", "policy", names, allowed);
  for (const std::string& name : names) {
    if (!status.ok()) break;
    if (std::find(policies.begin(), policies.end(), name) != policies.end()) {
      status = MakePolicy(name, parameters).status();
    }
  }
  return status;
}

}  // namespace guestmm
