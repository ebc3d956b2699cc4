#include <csignal>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>

#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"
#include "guestmm/vmm/vmm.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/progress.h"

namespace guestmm::tools {
namespace {

struct VmmArguments {
  std::string socket;
  bool quiet = false;
};

std::string Summary(const VhostUserCounters& counters) {
  std::string text =
      absl::StrFormat("%d reports, %s handed back", counters.reports,
                      FormatBytes(counters.bytes));
  if (counters.failures > 0) {
    absl::StrAppendFormat(&text, ", %d discards refused by the host",
                          counters.failures);
  }
  if (counters.refused > 0) {
    absl::StrAppendFormat(&text, ", %d requests refused", counters.refused);
  }
  return text;
}

// Lines of several threads, and below them one that changes.
class Log {
 public:
  explicit Log(bool quiet) : quiet_(quiet) {}

  void Say(const std::string& line) {
    const std::lock_guard hold(mutex_);
    if (quiet_) return;
    progress_.Show("");
    std::cout << line << std::endl;
  }
  void Progress(const std::string& text) {
    const std::lock_guard hold(mutex_);
    if (!quiet_) progress_.Show(text);
  }

 private:
  const bool quiet_;
  std::mutex mutex_;
  ProgressLine progress_;
};

int RunVmmCommand(const VmmArguments& arguments) {
  // Taken by this thread alone: to be blocked before there are others.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  Log log(arguments.quiet);
  const auto came = [&](const VhostUserSessionInfo& info) {
    log.Say(absl::StrFormat("guest %d (process %d) came", info.id, info.pid));
  };
  const auto left = [&](const VhostUserSessionInfo& info,
                        const absl::Status& why) {
    // That it closed the connection needs no saying.
    log.Say(absl::StrFormat(
        "guest %d (process %d) left: %s%s", info.id, info.pid,
        Summary(info.counters),
        absl::IsUnavailable(why) ? "" : "; " + std::string(why.message())));
  };
  const std::unique_ptr<VhostUserServer> vmm = MakeVmm(came, left);
  if (absl::Status status = vmm->Listen(arguments.socket); !status.ok()) {
    return Fail("vmm",
                absl::IsAlreadyExists(status)
                    ? absl::InvalidArgumentError(status.message())
                    : status,
                "--socket ");
  }
  log.Say("serving guests at " + arguments.socket + ", until Ctrl-C");
  constexpr timespec kRefresh = {.tv_sec = 0, .tv_nsec = 500'000'000};
  while (sigtimedwait(&ends, nullptr, &kRefresh) < 0) {
    log.Progress(absl::StrFormat("guests: %d; in all %s",
                                 vmm->sessions().size(),
                                 Summary(vmm->counters())));
  }
  vmm->Stop();
  log.Say("in all " + Summary(vmm->counters()));
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddVmmCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "vmm",
      "Serves the balloons of guests in other processes, and gives the memory "
      "that they report back to the host. They connect to a Unix socket "
      "(vhost-user): guestmm density --vmm PATH.");
  const auto arguments = std::make_shared<VmmArguments>();
  command.add_option("--socket", arguments->socket, "Where to make the socket")
      ->type_name("PATH")
      ->required();
  command.add_flag("--quiet", arguments->quiet, "Print nothing but errors");
  return [arguments] { return RunVmmCommand(*arguments); };
}

}  // namespace guestmm::tools
