#include "tools/guestmm/guestmm_main.h"

#include <functional>
#include <iostream>
#include <map>
#include <string>

#include "CLI/CLI.hpp"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"

namespace guestmm::tools {

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
    const auto given = app.get_subcommands();
    std::cerr << "guestmm"
              << (given.empty() ? "" : " " + given.front()->get_name()) << ": "
              << error.what() << "\n";
    return kExitUsage;
  }
  return commands.at(app.get_subcommands().front()->get_name())();
}

}  // namespace guestmm::tools
