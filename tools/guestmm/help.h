#ifndef GUESTMM_TOOLS_GUESTMM_HELP_H_
#define GUESTMM_TOOLS_GUESTMM_HELP_H_

// The help of a command. A command's footer() has its examples, one a line.

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// What follows the examples, each a paragraph: how sizes and times are written,
// if `command` takes any, and the exit statuses.
std::vector<std::string> ClosingNotes(const CLI::App& command);

// The value of an option as its help shows it: " SIZE", " [off|on]".
std::string ValueText(const CLI::Option& option);

// Writes it in 80 columns at most, or those of the terminal if these are fewer.
class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter();

  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_positionals(const CLI::App* app) const override;
  std::string make_group(
      std::string group, bool is_positional,
      std::vector<const CLI::Option*> options) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_option(const CLI::Option* option,
                          bool is_positional) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_footer(const CLI::App* app) const override;
};

// Adds `help`, which prints the help of the command that it is given, or of
// `app`. REQUIRES: all other commands have been added.
void AddHelpCommand(CLI::App& app);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_HELP_H_
