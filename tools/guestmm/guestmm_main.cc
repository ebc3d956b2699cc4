#include "tools/guestmm/guestmm_main.h"

#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"

namespace guestmm::tools {
namespace {

// The fault of the command line. `at`: the last command that it names.
std::string ErrorText(const CLI::App& at, const CLI::ParseError& error) {
  const auto commands =
      at.get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty() || error.get_name() != "RequiredError") {
    return error.what();
  }
  std::string rule = "must be one of ";
  for (const CLI::App* const command : commands) {
    if (command != commands.front()) rule += ", ";
    rule += command->get_name();
  }
  const std::vector<std::string> words = at.remaining();
  return (words.empty() ? "the command " : words.front() + ": ") + rule;
}

}  // namespace

int GuestmmMain(int argc, char** argv) {
  CLI::App app{
      "guestmm: what happens when a Linux guest hands its free memory back"};
  app.name("guestmm");
  app.require_subcommand(1);
  app.set_version_flag("--version", "guestmm " GUESTMM_VERSION);
  const std::map<std::string, std::function<int()>> commands = {
      {"calibrate", AddCalibrateCommand(app)},
      {"compare", AddCompareCommand(app)},
      {"density", AddDensityCommand(app)},
      {"info", AddInfoCommand(app)},
      {"replay", AddReplayCommand(app)},
      {"trace", AddTraceCommand(app)},
      {"vmm", AddVmmCommand(app)}};

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    const CLI::App* at = &app;
    std::cerr << at->get_name();
    while (!at->get_subcommands().empty()) {
      at = at->get_subcommands().front();
      std::cerr << " " << at->get_name();
    }
    std::cerr << ": " << ErrorText(*at, error) << "\n";
    return kExitUsage;
  }
  return commands.at(app.get_subcommands().front()->get_name())();
}

}  // namespace guestmm::tools
