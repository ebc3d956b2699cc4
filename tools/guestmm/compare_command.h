#ifndef GUESTMM_TOOLS_GUESTMM_COMPARE_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_COMPARE_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `guestmm compare` to `app`. The returned function runs the command and
// returns the exit status; it is called after parsing, if the command was given.
std::function<int()> AddCompareCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_COMPARE_COMMAND_H_
