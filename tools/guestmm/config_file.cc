#include "tools/guestmm/config_file.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tools/guestmm/arguments.h"
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

bool Has(const CLI::App& command, const std::string& key) {
  return command.get_option_no_throw("--" + key) != nullptr ||
         command.get_option_no_throw(key) != nullptr;
}

// The file, as far as it is about the command that was given.
class ConfigFile final : public CLI::ConfigTOML {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    std::vector<CLI::ConfigItem> given;
    for (CLI::ConfigItem& item : CLI::ConfigTOML::from_config(in)) {
      const CLI::App& command = CommandOf(item);
      const bool is_section = item.name == "++" || item.name == "--";
      if (is_section) continue;
      if (!Has(command, item.name)) {
        throw Error(NoSuchOption(command, "--" + item.name));
      }
      if (!command.parsed()) continue;
      item.parents = absl::StrSplit(WordsOf(command), ' ');
      given.push_back(item);
    }
    return given;
  }

 private:
  CLI::ConfigError Error(const std::string& what) const {
    return CLI::ConfigError(app_.get_config_ptr()->results().back() + ": " +
                            what);
  }

  // The command whose option the item is.
  const CLI::App& CommandOf(const CLI::ConfigItem& item) const {
    const CLI::App* command = &app_;
    if (item.parents.empty()) {
      // That of `trace info` may be one of `trace`.
      const std::vector<const CLI::App*> given = Given(app_);
      for (const CLI::App* const at : given) {
        if (at != &app_ && Has(*at, item.name)) command = at;
      }
      return command == &app_ ? *given.back() : *command;
    }
    try {
      for (const std::string& name : item.parents) {
        command = &SubcommandNamed(*command, name);
      }
    } catch (const CLI::ValidationError& error) {
      throw Error(error.what());
    }
    return *command;
  }

  const CLI::App& app_;
};

void AddOption(CLI::App& app, CLI::App& command) {
  const auto subcommands =
      command.get_subcommands([](const CLI::App*) { return true; });
  for (CLI::App* const subcommand : subcommands) AddOption(app, *subcommand);
  if (command.get_require_subcommand_min() > 0) return;
  // CLI11 reads the file that is an option of `app`.
  command
      .add_option_function<std::string>(
          "--config",
          [&app](const std::string& path) {
            app.get_config_ptr()->add_result(InputPath(path));
          },
          "TOML file of options (-: stdin), in a section [" +
              absl::StrReplaceAll(WordsOf(command), {{" ", "."}}) +
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
