#ifndef GUESTMM_TOOLS_GUESTMM_VMM_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_VMM_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `guestmm vmm` to `app`. The result runs the command and returns the exit
// status: call it after parsing, if the command was given.
std::function<int()> AddVmmCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_VMM_COMMAND_H_
