#include "tools/guestmm/config_file.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/given_options.h"
#include "tools/guestmm/usage_error.h"

namespace guestmm::tools {
namespace {

// The commands that the command line names, from `app` down.
std::vector<const CLI::App*> Given(const CLI::App& app) {
  std::vector<const CLI::App*> given = {&app};
  while (!given.back()->get_subcommands().empty()) {
    given.push_back(given.back()->get_subcommands().front());
  }
  return given;
}

// The option of `command` that `key` is, or the argument, in any case; null for
// none.
const CLI::Option* OptionOf(const CLI::App& command, const std::string& key) {
  for (const CLI::Option* const option : command.get_options()) {
    if (option->get_positional()
            ? absl::EqualsIgnoreCase(option->get_name(), key)
            : option->check_lname(key)) {
      return option;
    }
  }
  return nullptr;
}

// All of a text, without a byte order mark.
std::string Contents(std::istream& in) {
  std::ostringstream contents;
  contents << in.rdbuf();
  std::string text = contents.str();
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

bool IsNoText(char c) {
  return std::string_view("\t\n\r").find(c) == std::string_view::npos &&
         (static_cast<unsigned char>(c) < ' ' || c == '\x7f');
}

// The file, as far as it is about the command that was given.
class ConfigFile final : public CLI::ConfigTOML {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    const std::string text = Contents(in);
    const auto binary = std::find_if(text.begin(), text.end(), IsNoText);
    if (binary != text.end()) {
      throw Error(absl::StrFormat(":%d: must be text; it has the byte 0x%02x",
                                  1 + std::count(text.begin(), binary, '\n'),
                                  *binary));
    }
    std::istringstream lines(text);
    std::vector<CLI::ConfigItem> given;
    for (CLI::ConfigItem& item : CLI::ConfigTOML::from_config(lines)) {
      const CLI::App& command = CommandOf(item);
      const bool is_section = item.name == "++" || item.name == "--";
      if (is_section) continue;
      const CLI::Option* const option = OptionOf(command, item.name);
      if (option == nullptr) {
        throw Error(": " + NoSuchOption(command, "--" + item.name));
      }
      if (!command.parsed()) continue;
      CheckNumber(*option, item);
      if (option->empty()) NoteFromFile(option->get_name(), Path());
      if (option->get_positional()) item.name = option->get_name();
      item.parents = absl::StrSplit(WordsOf(command), ' ');
      given.push_back(item);
    }
    return given;
  }

 private:
  std::string Path() const { return app_.get_config_ptr()->results().back(); }

  // `what` follows the path.
  CLI::ConfigError Error(const std::string& what) const {
    return CLI::ConfigError(Path() + Printable(what));
  }

  // Throws the error of an option that has more values than it can. CLI11
  // parts a value that is not quoted at its blanks.
  void CheckNumber(const CLI::Option& option,
                   const CLI::ConfigItem& item) const {
    const int most = std::max(option.get_items_expected_max(), 1);
    if (item.inputs.size() <= static_cast<size_t>(most)) return;
    const std::string value = absl::StrJoin(item.inputs, " ");
    throw Error(absl::StrCat(": ", option.get_name(), "=", value,
                             ": must be one value, given once; one with blanks "
                             "must be quoted: ",
                             item.name, " = \"", value, "\""));
  }

  // The command whose option the item is.
  const CLI::App& CommandOf(const CLI::ConfigItem& item) const {
    const CLI::App* command = &app_;
    if (item.parents.empty()) {
      // That of `trace info` may be one of `trace`.
      const std::vector<const CLI::App*> given = Given(app_);
      for (const CLI::App* const at : given) {
        if (at != &app_ && OptionOf(*at, item.name) != nullptr) command = at;
      }
      return command == &app_ ? *given.back() : *command;
    }
    try {
      for (const std::string& name : item.parents) {
        command = &SubcommandNamed(*command, name);
      }
    } catch (const CLI::ValidationError& error) {
      throw Error(std::string(": ") + error.what());
    }
    return *command;
  }

  const CLI::App& app_;
};

void AddOption(CLI::App& app, CLI::App& command) {
  const auto subcommands =
      command.get_subcommands([](const CLI::App*) { return true; });
  for (CLI::App* const subcommand : subcommands) AddOption(app, *subcommand);
  const bool is_group = command.get_require_subcommand_min() > 0;
  // CLI11 reads the file that is an option of `app`.
  command
      .add_option_function<std::string>(
          "--config",
          [&app](const std::string& path) {
            app.get_config_ptr()->add_result(InputPath(path));
          },
          "TOML file of options (-: stdin), in a section [" +
              absl::StrReplaceAll(WordsOf(command), {{" ", "."}}) +
              (is_group ? ".COMMAND" : "") +
              "] or above all sections; the command line comes first")
      ->group("Options")
      ->type_name("FILE")
      ->configurable(false)
      ->trigger_on_parse();
}

}  // namespace

void AddConfigFile(CLI::App& app) {
  for (CLI::App* const command :
       app.get_subcommands([](const CLI::App*) { return true; })) {
    AddOption(app, *command);
  }
  app.config_formatter(std::make_shared<ConfigFile>(app));
  app.set_config("--config", "", "TOML file of the command's options")
      ->type_name("FILE");
}

}  // namespace guestmm::tools
