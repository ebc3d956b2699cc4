#ifndef GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_
#define GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_

#include <cstdint>
#include <optional>

#include "CLI/CLI.hpp"
#include "guestmm/base/clock.h"
#include "guestmm/reporting/policies.h"

namespace guestmm::tools {

// What the command line said of policies' parameters.
struct PolicyArguments {
  std::optional<uint64_t> order;
  std::optional<uint64_t> floor;
  std::optional<uint64_t> threshold;
  std::optional<uint64_t> capacity;
  std::optional<Nanoseconds> delay;

  PolicyParameters ToParameters() const;
};

// The options that set them; a policy ignores what it does not have.
void AddPolicyArguments(CLI::App& command, PolicyArguments& arguments);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_POLICY_ARGUMENTS_H_
