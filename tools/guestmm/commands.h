#ifndef GUESTMM_TOOLS_GUESTMM_COMMANDS_H_
#define GUESTMM_TOOLS_GUESTMM_COMMANDS_H_

// The subcommands of guestmm. Each function adds its command and options to
// `app`; call the result after parsing, if the command was given: it runs the
// command and returns the exit status (exit_status.h).

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

std::function<int()> AddCalibrateCommand(CLI::App& app);
std::function<int()> AddCompareCommand(CLI::App& app);
std::function<int()> AddDensityCommand(CLI::App& app);
std::function<int()> AddInfoCommand(CLI::App& app);
std::function<int()> AddReplayCommand(CLI::App& app);
// Of three parts: convert, info, print.
std::function<int()> AddTraceCommand(CLI::App& app);
std::function<int()> AddVmmCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_COMMANDS_H_
