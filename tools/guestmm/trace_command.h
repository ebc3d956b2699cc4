#ifndef GUESTMM_TOOLS_GUESTMM_TRACE_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_TRACE_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `guestmm trace` (convert, info, print) to `app`; as AddDensityCommand.
std::function<int()> AddTraceCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_TRACE_COMMAND_H_
