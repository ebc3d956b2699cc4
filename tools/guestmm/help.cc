#include "tools/guestmm/help.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/terminal.h"
#include "tools/guestmm/usage_error.h"

namespace guestmm::tools {
namespace {

// Where the texts of options and commands begin.
constexpr size_t kTextColumn = 26;

size_t HelpColumns() {
  constexpr size_t kMost = 80;
  return std::min(kMost, TerminalColumns(STDOUT_FILENO));
}

std::string Entry(const std::string& name, const std::string& text) {
  std::string entry = "  " + name;
  if (text.empty()) return entry + "\n";
  if (entry.size() + 2 > kTextColumn) {
    entry += "\n" + std::string(kTextColumn, ' ');
  } else {
    entry.resize(kTextColumn, ' ');
  }
  return entry + Wrap(text, HelpColumns(), kTextColumn) + "\n";
}

// Of the command itself, or of one below it.
bool HasValueOf(const CLI::App& command, const std::string& type) {
  const auto options = command.get_options();
  const auto below = command.get_subcommands({});
  return std::any_of(options.begin(), options.end(),
                     [&](const CLI::Option* option) {
                       return absl::StartsWith(option->get_type_name(), type);
                     }) ||
         std::any_of(below.begin(), below.end(), [&](const CLI::App* app) {
           return HasValueOf(*app, type);
         });
}

}  // namespace

std::vector<std::string> ClosingNotes(const CLI::App& command) {
  std::vector<std::string> notes;
  if (HasValueOf(command, kSizeType)) {
    notes.emplace_back("A SIZE is written as in 4096, 64K, 512m, 1.5GiB.");
  }
  if (HasValueOf(command, kTimeType)) {
    notes.emplace_back(
        "A TIME is written as in 100ms, 10s, 2h; without a unit it is in "
        "seconds.");
  }
  notes.emplace_back(
      "Exit status: 0: success; 1: the command failed; 2: an error in its "
      "arguments; 130: interrupted.");
  return notes;
}

std::string ValueText(const CLI::Option& option) {
  const std::string& type = option.get_type_name();
  if (!TakesValue(option) || type.empty()) return "";
  return option.get_expected_min() == 0 ? " [" + type + "]" : " " + type;
}

HelpFormatter::HelpFormatter() {
  label("SUBCOMMAND", "COMMAND");
  label("Positionals", "Arguments");
}

std::string HelpFormatter::make_usage(const CLI::App* app,
                                      std::string name) const {
  return Formatter::make_usage(app, std::move(name)) + "\n";
}

std::string HelpFormatter::make_positionals(const CLI::App* app) const {
  const std::string text = Formatter::make_positionals(app);
  return text.empty() ? text : text + "\n";
}

std::string HelpFormatter::make_group(
    std::string group, bool is_positional,
    std::vector<const CLI::Option*> options) const {
  std::string text = group + ":\n";
  for (const CLI::Option* const option : options) {
    text += make_option(option, is_positional);
  }
  return text;
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return Wrap(app->get_description(), HelpColumns()) + "\n\n";
}

std::string HelpFormatter::make_option(const CLI::Option* option,
                                       bool is_positional) const {
  // "--policies, --policy"
  const std::string names = absl::StrReplaceAll(
      make_option_name(option, is_positional), {{",", ", "}});
  const bool repeats_name = is_positional && names == option->get_type_name();
  return Entry(names + (repeats_name ? "" : ValueText(*option)),
               option->get_description());
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  // The first sentence is what the command does.
  const std::string& text = command->get_description();
  const size_t end = text.find_first_of(".?");
  return Entry(command->get_name(), text.substr(0, end));
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  std::string footer;
  if (const std::string examples = app->get_footer(); !examples.empty()) {
    footer = "Examples:\n  " + absl::StrReplaceAll(examples, {{"\n", "\n  "}}) +
             "\n\n";
  }
  for (const std::string& note : ClosingNotes(*app)) {
    footer += Wrap(note, HelpColumns()) + "\n";
  }
  return footer;
}

void AddHelpCommand(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("help", "Prints the help of a command.");
  const auto words = std::make_shared<std::vector<std::string>>();
  command.add_option("COMMAND", *words, "The command, as in trace info")
      ->type_name("");
  command.callback([&app, words] {
    const CLI::App* at = &app;
    std::string path;
    for (const std::string& word : *words) {
      path += (path.empty() ? "" : " ") + at->get_name();
      at = &SubcommandNamed(*at, word);
    }
    // `app` would print the help of `help`, the command that was given.
    std::cout << (words->empty()
                      ? app.get_formatter()->make_help(
                            &app, app.get_name(), CLI::AppFormatMode::Normal)
                      : at->help(path));
  });
}

}  // namespace guestmm::tools
