#ifndef GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_
#define GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_

#include "CLI/CLI.hpp"
#include "guestmm/reporting/policies.h"

namespace guestmm::tools {

// The parameters of policies that the command line set by flags.
// CheckMechanisms checks their values.
struct PolicyArguments {
  PolicyDefaults parameters;
};

// Adds --order, --threshold, --capacity, --delay and --floor: defaults for each
// named policy that has such a parameter.
void AddPolicyArguments(CLI::App& command, PolicyArguments& arguments);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_
