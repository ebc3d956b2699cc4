#include "tools/guestmm/usage_error.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "guestmm/base/choices.h"

namespace guestmm::tools {
namespace {

// The text up to `end`, or all of it.
std::string Before(const std::string& text, const std::string& end) {
  return text.substr(0, text.find(end));
}

// A word that a command cannot take. Empty for none.
struct Extra {
  const CLI::App& command;
  std::string word;
};

// That of `at`, or of what it belongs to. Behind "--", which says that no
// option follows, CLI11 leaves that to the program.
Extra FirstExtra(const CLI::App& at) {
  for (const std::string& word : at.remaining()) {
    if (word != "--") return {at, word};
  }
  if (at.get_parent() == nullptr) return {at, ""};
  return FirstExtra(*at.get_parent());
}

// What is wrong with `extra`, if `at` is the last command that is named.
std::string WrongExtra(const CLI::App& at, const Extra& extra) {
  const std::string name = Before(extra.word, "=");
  if (&extra.command != &at && at.get_option_no_throw(name) != nullptr) {
    return absl::StrCat(name, ": must come after ", FullName(at),
                        ", whose option it is");
  }
  if (absl::StartsWith(name, "-")) return NoSuchOption(extra.command, name);
  // Behind "--" it is not left to the command itself.
  std::vector<std::string> arguments;
  for (const CLI::Option* const option : at.get_options()) {
    if (option->get_positional()) {
      arguments.push_back(absl::AsciiStrToUpper(option->get_name()));
    }
  }
  return arguments.empty()
             ? NoSuchOption(at, extra.word)
             : absl::StrCat(extra.word, ": must be left out, as ", FullName(at),
                            " takes one ",
                            absl::StrJoin(arguments, " and one "));
}

std::string MissingSubcommand(const CLI::App& at) {
  const std::string word = FirstExtra(at).word;
  const std::string rule = MustBeOneOf(word, SubcommandNames(at));
  return absl::StrCat(word.empty() ? "the command" : word + ":", " ", rule);
}

}  // namespace

std::vector<std::string> SubcommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* const command : app.get_subcommands({})) {
    if (!command->get_group().empty()) names.push_back(command->get_name());
  }
  return names;
}

const CLI::App& SubcommandNamed(const CLI::App& app, const std::string& word) {
  for (const CLI::App* const command : app.get_subcommands({})) {
    if (command->get_name() == word) return *command;
  }
  const std::vector<std::string> names = SubcommandNames(app);
  throw CLI::ValidationError(
      word, names.empty() ? absl::StrCat("must be left out, as ", FullName(app),
                                         " has no commands of its own")
                          : MustBeOneOf(word, names));
}

std::string FullName(const CLI::App& command) {
  const std::string words = WordsOf(command);
  return absl::StrCat("guestmm", words.empty() ? "" : " ", words);
}

std::string WordsOf(const CLI::App& command) {
  const CLI::App* const parent = command.get_parent();
  if (parent == nullptr) return "";
  const std::string before = WordsOf(*parent);
  return absl::StrCat(before, before.empty() ? "" : " ", command.get_name());
}

std::string NoSuchOption(const CLI::App& command, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::Option* const option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names.push_back("--" + name);
    }
  }
  const std::string name = Before(word, "=");
  return absl::StrCat(name, ": must be an option of ", FullName(command),
                      DidYouMean(name, names));
}

std::string UsageError(const CLI::App& at, const CLI::ParseError& error) {
  const std::string kind = error.get_name();
  const std::string text = error.what();
  const Extra extra = FirstExtra(at);
  // CLI11 names these errors after the command.
  const bool is_extra =
      dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (is_extra ||
      (kind == "RequiredError" && absl::StartsWith(extra.word, "-"))) {
    return WrongExtra(at, extra);
  }
  if (kind == "RequiredError") {
    return absl::StartsWith(text, "A subcommand")
               ? MissingSubcommand(at)
               : Before(text, " is required") + ": must be given";
  }
  if (kind == "RequiresError") {
    return absl::StrReplaceAll(text, {{" requires ", ": must be given with "}});
  }
  if (kind == "ExcludesError") {
    return absl::StrReplaceAll(text, {{" excludes ", ": must be unset with "}});
  }
  if (kind == "FileError") {
    return absl::StrCat("--config=", Before(text, " was not readable"),
                        ": must be a file that can be read");
  }
  if (kind == "ArgumentMismatch") {
    const bool is_missing = absl::StrContains(text, "missing");
    // "PATHS: At least 2 required but received 1".
    if (absl::StrContains(text, "At least 2 ")) {
      return Before(text, ":") + ": must be two or more";
    }
    return Before(text, ":") +
           (is_missing ? ": must have a value" : ": must be given once");
  }
  // "Could not convert: --wide = 5". Only flags have values that CLI11 reads.
  if (kind == "ConversionError") {
    return Before(text.substr(text.find("--")), " ") + ": must have no value";
  }
  return text;
}

}  // namespace guestmm::tools
