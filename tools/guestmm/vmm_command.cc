#include "tools/guestmm/vmm_command.h"

#include <csignal>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>

#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"
#include "guestmm/vmm/vmm.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/progress.h"

namespace guestmm::tools {
namespace {

struct VmmArguments {
  std::string socket;
  bool quiet = false;
};

std::string Summary(const VmmCounters& counters) {
  std::string text =
      absl::StrFormat("%d reports, %s handed back", counters.discards.reports,
                      FormatBytes(counters.discards.bytes));
  if (counters.discards.failures > 0) {
    absl::StrAppendFormat(&text, ", %d discards refused by the host",
                          counters.discards.failures);
  }
  if (counters.requests.refused > 0) {
    absl::StrAppendFormat(&text, ", %d requests refused",
                          counters.requests.refused);
  }
  return text;
}

// Prints lines from several threads, with a progress line below them.
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
  // Only this thread takes them, so they are blocked before others start.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  Log log(arguments.quiet);
  const auto came = [&](const VmmGuest& guest) {
    log.Say(absl::StrFormat("guest %d (process %d) came", guest.id, guest.pid));
  };
  const auto left = [&](const VmmGuest& guest, const absl::Status& why) {
    // Unavailable: the guest closed the connection, as every guest should.
    log.Say(absl::StrFormat(
        "guest %d (process %d) left: %s%s", guest.id, guest.pid,
        Summary(guest.counters),
        absl::IsUnavailable(why) ? "" : "; " + std::string(why.message())));
  };
  Vmm vmm({.on_begin = came, .on_end = left});
  if (absl::Status status = vmm.Listen(arguments.socket); !status.ok()) {
    return Fail("vmm",
                absl::IsAlreadyExists(status)
                    ? absl::InvalidArgumentError(status.message())
                    : status,
                "--socket=");
  }
  log.Say("serving guests at " + arguments.socket + ", until Ctrl-C");
  constexpr timespec kRefresh = {.tv_sec = 0, .tv_nsec = 500'000'000};
  while (sigtimedwait(&ends, nullptr, &kRefresh) < 0) {
    log.Progress(absl::StrFormat("guests: %d; in all %s", vmm.guests(),
                                 Summary(vmm.counters())));
  }
  vmm.Stop();
  log.Say("in all " + Summary(vmm.counters()));
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddVmmCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "vmm",
      "Serves balloon devices to guests in other processes, and returns the "
      "memory they report to the host. Guests connect to a Unix socket "
      "(vhost-user): guestmm density --vmm PATH.");
  const auto arguments = std::make_shared<VmmArguments>();
  command
      .add_option("--socket", arguments->socket, "Path of the socket to create")
      ->type_name("PATH")
      ->required();
  command.add_flag("--quiet", arguments->quiet, "Print errors only");
  return [arguments] { return RunVmmCommand(*arguments); };
}

}  // namespace guestmm::tools
