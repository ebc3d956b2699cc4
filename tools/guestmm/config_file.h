#ifndef GUESTMM_TOOLS_GUESTMM_CONFIG_FILE_H_
#define GUESTMM_TOOLS_GUESTMM_CONFIG_FILE_H_

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Gives each command of `app` an option --config: a TOML file of its options,
// in a section of its name, as [density] or [trace.info], or above all
// sections. What the command line gives comes before that. A section or key
// that is none, and a value of more than one word, end parsing with an error
// that names the file and the key.
// REQUIRES: all commands with options have been added.
void AddConfigFile(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_CONFIG_FILE_H_
