#ifndef GUESTMM_TOOLS_GUESTMM_INFO_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_INFO_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `guestmm info` to `app`; as AddDensityCommand.
std::function<int()> AddInfoCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_INFO_COMMAND_H_
