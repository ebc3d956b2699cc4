#ifndef GUESTMM_TOOLS_GUESTMM_VMM_CTL_COMMAND_H_
#define GUESTMM_TOOLS_GUESTMM_VMM_CTL_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Adds `ctl`, which sends a request to the control socket of a vmm, to the
// command vmm. The result runs it; it returns -1 if ctl was not given.
std::function<int()> AddVmmCtlCommand(CLI::App& vmm);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_VMM_CTL_COMMAND_H_
