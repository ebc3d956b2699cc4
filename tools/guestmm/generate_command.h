#ifndef GUESTMM_TOOLS_GUESTMM_GENERATE_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_GENERATE_COMMAND_H_

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds the hidden command `generate`, which prints the man page of `app`, or
// its completion for a shell, from the commands and options that `app` has. The
// build runs it. REQUIRES: all other commands but `help` have been added.
void AddGenerateCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_GENERATE_COMMAND_H_
