// guestmm: the command line of the library's experiments.

#include <functional>
#include <iostream>

#include "CLI/CLI.hpp"
#include "tools/guestmm/density_command.h"
#include "tools/guestmm/exit_status.h"

int main(int argc, char** argv) {
  CLI::App app{
      "guestmm: what happens when a Linux guest hands its free memory back"};
  app.name("guestmm");
  app.require_subcommand(1);
  app.set_version_flag("--version", "guestmm " GUESTMM_VERSION);
  const std::function<int()> density = guestmm::tools::AddDensityCommand(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    const auto commands = app.get_subcommands();
    std::cerr << "guestmm"
              << (commands.empty() ? "" : " " + commands.front()->get_name())
              << ": " << error.what() << "\n";
    return guestmm::tools::kExitUsage;
  }
  return density();
}
