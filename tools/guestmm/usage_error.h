#ifndef GUESTMM_TOOLS_GUESTMM_USAGE_ERROR_H_
#define GUESTMM_TOOLS_GUESTMM_USAGE_ERROR_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// The names of the commands of `app` that its help shows.
std::vector<std::string> SubcommandNames(const CLI::App& app);

// The command of `app` of that name. Throws the error of a word that is none.
const CLI::App& SubcommandNamed(const CLI::App& app, const std::string& word);

// "guestmm trace info": the command and those that it belongs to.
std::string FullName(const CLI::App& command);

// "trace info": the same without the program. Empty for the program itself.
std::string WordsOf(const CLI::App& command);

// "--scael: must be an option of guestmm density; did you mean '--scale'?"
std::string NoSuchOption(const CLI::App& command, const std::string& word);

// The line that says what is wrong with the command line, in OptionError's
// form: what was given, and what it must be. `at`: the last command that the
// command line names.
std::string UsageError(const CLI::App& at, const CLI::ParseError& error);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_USAGE_ERROR_H_
