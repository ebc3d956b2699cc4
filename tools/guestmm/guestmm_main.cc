#include "guestmm/commands/guestmm_main.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "CLI/CLI.hpp"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/base/version.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/config_file.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/generate_command.h"
#include "tools/guestmm/given_options.h"
#include "tools/guestmm/help.h"
#include "tools/guestmm/standard_streams.h"
#include "tools/guestmm/terminal.h"
#include "tools/guestmm/usage_error.h"

namespace guestmm::tools {
namespace {

// Where parsing ended: the last command that the command line names.
const CLI::App& LastNamed(const CLI::App& app) {
  const std::vector<CLI::App*> named = app.get_subcommands();
  return named.empty() ? app : LastNamed(*named.front());
}

// Prints one line about the exception that is being handled.
void PrintException() {
  std::cerr << "guestmm: ";
  try {
    throw;
  } catch (const std::bad_alloc&) {
    std::cerr << "out of memory";
  } catch (const std::system_error& error) {
    // What a thread that cannot start throws says nothing of threads.
    if (error.code() == std::errc::resource_unavailable_try_again) {
      std::cerr << "out of threads: ";
    }
    std::cerr << error.what();
  } catch (const std::exception& error) {
    std::cerr << error.what();
  }
  std::cerr << "\n";
}

// The end of a thread that lets an exception out.
[[noreturn]] void Terminate() {
  if (std::current_exception() == nullptr) std::abort();
  PrintException();
  std::_Exit(kExitFailure);
}

int Run(int argc, char** argv) {
  CLI::App app{
      "guestmm: what happens when a Linux guest hands its free memory back"};
  app.name("guestmm");
  app.formatter(std::make_shared<HelpFormatter>());
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
  AddConfigFile(app);
  AddGenerateCommand(app);
  AddHelpCommand(app);
  app.footer(
      "guestmm density\n"
      "guestmm replay data/procs --truth\n"
      "guestmm help compare");

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    const CLI::App& at = LastNamed(app);
    TellError(FullName(at) + ": " + AsGiven(UsageError(at, error)));
    return kExitUsage;
  }
  NoteTyped(LastNamed(app));
  const auto command = commands.find(app.get_subcommands().front()->get_name());
  // The others have run.
  return command == commands.end() ? kExitSuccess : command->second();
}

}  // namespace

int GuestmmMain(int argc, char** argv) {
  OpenStandardStreams();
  // A file that gets too large is an error of its write.
  std::signal(SIGXFSZ, SIG_IGN);
  CleanUpAtSignals();
  std::set_terminate(Terminate);
  StandardOutput output;
  int status = kExitFailure;
  try {
    status = Run(argc, argv);
  } catch (const std::exception&) {
    PrintException();
  }
  if (const int error = output.Finish(); error != 0) {
    TellLostOutput(std::strerror(error));
    if (status == kExitSuccess) status = kExitFailure;
  }
  // Nothing is left to say where standard error is lost.
  return status == kExitSuccess && !std::cerr ? kExitFailure : status;
}

}  // namespace guestmm::tools
