#ifndef GUESTMM_TOOLS_GUESTMM_REPLAY_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_REPLAY_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `guestmm replay` to `app`. The result runs it and returns the exit
// status; call it after parsing, if the command was given.
std::function<int()> AddReplayCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_REPLAY_COMMAND_H_
