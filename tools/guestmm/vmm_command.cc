#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/types.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/base/unix_listener.h"
#include "guestmm/vmm/balloon_offer.h"
#include "guestmm/vmm/control/server.h"
#include "guestmm/vmm/line_log.h"
#include "guestmm/vmm/vmm.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/sandbox.h"
#include "tools/guestmm/standard_streams.h"
#include "tools/guestmm/vmm_ctl_command.h"

namespace guestmm::tools {
namespace {

struct VmmArguments {
  std::optional<std::string> socket;
  std::optional<uint64_t> fd;
  std::optional<std::string> control;
  std::vector<std::string> offer;
  std::vector<std::string> allowed;
  bool seccomp = false;
  bool quiet = false;
  bool print_capabilities = false;
  VmmOptions vmm;
};

// As vhost-user.json of QEMU has it: what kind of device is served.
constexpr char kCapabilities[] = R"({"type": "balloon"})";

const Fields<VhostUserServerOptions>& ServerFields() {
  using Options = VhostUserServerOptions;
  static const Fields<Options> fields = {
      {"max-guests", &Options::max_sessions, FieldKind::Count(1, 4096),
       "Guests at a time, if file descriptors suffice"},
      {"max-guests-per-uid", &Options::max_sessions_per_uid,
       FieldKind::Count(1, 4096), "The same, of one user"},
      {"max-guest-memory", &Options::max_guest_bytes, FieldKind::Bytes(1),
       "Memory that a guest may share"},
      {"max-memory", &Options::max_total_bytes, FieldKind::Bytes(1),
       "Memory that all guests may share together"},
      {"max-memory-per-uid", &Options::max_total_bytes_per_uid,
       FieldKind::Bytes(1), "The same, of one user's guests"},
      {"guaranteed-guest-memory", &Options::guaranteed_guest_bytes,
       FieldKind::Bytes(),
       "Memory of each guest that the limits on all guests do not count"},
      {"handshake-timeout", &Options::handshake_timeout,
       FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(1)),
       "Time for a connection's first message; 0: any time"},
      {"allow-unsealed-memory", &Options::allow_unsealed_memory,
       FieldKind::Switch(),
       "Take guest memory that is not sealed. A guest that shortens it loses "
       "that region; the other guests and this process are not harmed"}};
  return fields;
}

template <typename Number>
std::optional<Number> ParseNumber(const std::string& text, int base) {
  Number number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, base);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

void SetMode(const std::string& text, mode_t& mode) {
  constexpr mode_t kMost = 0777;
  const auto parsed = ParseNumber<mode_t>(text, 8);
  if (!parsed || *parsed > kMost) {
    Reject("--mode", text, "must be octal, 0 to 777");
  }
  mode = *parsed;
}

void SetGroup(const std::string& text, std::optional<gid_t>& gid) {
  gid = ParseNumber<gid_t>(text, 10);
  if (gid) return;
  const group* const entry = getgrnam(text.c_str());
  if (entry == nullptr)
    Reject("--group", text, "must be a group or its number");
  gid = entry->gr_gid;
}

absl::StatusOr<std::vector<uid_t>> ParseUsers(
    const std::vector<std::string>& words) {
  std::vector<uid_t> uids;
  for (const std::string& word : words) {
    std::optional<uid_t> uid = ParseNumber<uid_t>(word, 10);
    if (const passwd* entry = uid ? nullptr : getpwnam(word.c_str())) {
      uid = entry->pw_uid;
    }
    if (!uid) {
      return OptionError("allow-uid", absl::StrJoin(words, ","),
                         "must be users or their numbers");
    }
    uids.push_back(*uid);
  }
  return uids;
}

// The rest of `arguments`, from its words.
absl::Status Complete(VmmArguments& arguments) {
  if (arguments.socket.has_value() == arguments.fd.has_value()) {
    return absl::InvalidArgumentError(
        "--socket, --fd: exactly one is required");
  }
  if (!arguments.offer.empty()) {
    const auto offered = ParseBalloonOffer(arguments.offer);
    if (!offered.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--offer=", offered.status().message()));
    }
    arguments.vmm.offered = *offered;
  }
  auto uids = ParseUsers(arguments.allowed);
  if (!uids.ok()) return uids.status();
  arguments.vmm.server.allowed_uids = *std::move(uids);
  if (arguments.seccomp && !HasSeccomp()) {
    return OptionError(
        "seccomp", "on",
        "must be off: this program was built without libseccomp");
  }
  return absl::OkStatus();
}

std::string Summary(const VmmCounters& counters) {
  std::string text =
      absl::StrFormat("%d reports, %s handed back", counters.discards.reports,
                      FormatBytes(counters.discards.bytes));
  if (counters.discards.failures > 0) {
    absl::StrAppendFormat(&text, ", %d discards refused by the host",
                          counters.discards.failures);
  }
  const VhostUserCounters& requests = counters.requests;
  if (requests.refused > 0) {
    absl::StrAppendFormat(
        &text, ", %d requests refused (%s)", requests.refused,
        absl::StrJoin(requests.refused_by, ", ", absl::PairFormatter(" ")));
  }
  return text;
}

std::string SummaryOfAll(const Vmm& vmm) {
  std::string text = Summary(vmm.counters());
  if (vmm.refused_connections() > 0) {
    absl::StrAppendFormat(&text, ", %d connections refused",
                          vmm.refused_connections());
  }
  return text;
}

// The options whose callbacks write to `log`.
VmmOptions WithLog(VmmOptions options, LineLog& log) {
  options.on_begin = [&log](const VmmGuest& guest) {
    log.Say(absl::StrFormat("guest %d (process %d) came", guest.id,
                            guest.peer.pid));
  };
  options.on_end = [&log](const VmmGuest& guest, const absl::Status& why) {
    // Unavailable: the guest closed the connection, as every guest should.
    log.Say(absl::StrFormat(
        "guest %d (process %d) left: %s%s", guest.id, guest.peer.pid,
        Summary(guest.counters),
        absl::IsUnavailable(why) ? "" : "; " + std::string(why.message())));
  };
  options.on_refused = [&log](uint64_t guest, const VhostUserRefusal& refusal) {
    // A broken ring is nobody's request.
    log.Say(absl::StrFormat("guest %d: %s%s", guest,
                            refusal.request == "ring" ? "" : "refused: ",
                            std::string(refusal.why.message())));
  };
  options.on_refused_connection = [&log](const UnixPeer& peer,
                                         const absl::Status& why) {
    log.Say(absl::StrFormat("connection of process %d refused: %s", peer.pid,
                            std::string(why.message())));
  };
  return options;
}

// The error of an option that says where to listen. A socket that is in use is
// an error in the arguments.
absl::Status Listening(const absl::Status& status, const char* option) {
  if (status.ok()) return status;
  return absl::Status(absl::IsAlreadyExists(status)
                          ? absl::StatusCode::kInvalidArgument
                          : status.code(),
                      absl::StrCat(option, status.message()));
}

// Listens, or serves the one guest that is connected.
absl::Status Open(const VmmArguments& arguments, bool is_connected, Vmm& vmm) {
  const int fd = static_cast<int>(arguments.fd.value_or(0));
  absl::Status status;
  if (arguments.socket) {
    status = vmm.Listen(*arguments.socket);
  } else if (is_connected) {
    status = vmm.Serve(UniqueFd(fd));
  } else {
    absl::StatusOr<UnixListener> listener = UnixListener::Adopt(UniqueFd(fd));
    status = listener.status();
    if (listener.ok()) vmm.Listen(*std::move(listener));
  }
  return Listening(status, arguments.socket ? "--socket=" : "--fd: ");
}

// Serves until one of `ends`, or until the guest of a connection leaves.
absl::Status Serve(const VmmArguments& arguments, const sigset_t& ends,
                   LineLog& log) {
  Vmm vmm(WithLog(arguments.vmm, log));
  const bool is_connected =
      arguments.fd &&
      IsUnixStream(static_cast<int>(*arguments.fd), /*listens=*/false);
  if (absl::Status status = Open(arguments, is_connected, vmm); !status.ok()) {
    return status;
  }
  ControlServer control(vmm);
  if (arguments.control) {
    absl::Status status =
        Listening(control.Listen(*arguments.control), "--control=");
    if (!status.ok()) return status;
  }
  if (arguments.seccomp) {
    if (absl::Status status = EnterSeccomp(); !status.ok()) return status;
  }
  log.Tell(absl::StrFormat(
      "serving guests at %s, until %s",
      arguments.socket ? *arguments.socket : absl::StrCat("fd ", *arguments.fd),
      is_connected ? "it leaves" : "Ctrl-C"));
  constexpr timespec kRefresh = {.tv_sec = 0, .tv_nsec = 500'000'000};
  while (sigtimedwait(&ends, nullptr, &kRefresh) < 0) {
    if (is_connected && vmm.guests() == 0) break;
    log.Show(absl::StrFormat("guests: %d; in all %s", vmm.guests(),
                             SummaryOfAll(vmm)));
  }
  vmm.Stop();
  log.Tell("in all " + SummaryOfAll(vmm));
  return absl::OkStatus();
}

// False if to write to `fd` would be to wait.
bool CanTakeLine(int fd) {
  pollfd polled = {.fd = fd, .events = POLLOUT, .revents = 0};
  return poll(&polled, 1, 0) == 1;
}

int RunVmmCommand(VmmArguments& arguments) {
  if (arguments.print_capabilities) {
    std::cout << kCapabilities << "\n";
    return kExitSuccess;
  }
  if (const absl::Status status = Complete(arguments); !status.ok()) {
    return Fail("vmm", status);
  }
  ForbidNewPrivileges();
  // The reader of the log may exit.
  signal(SIGPIPE, SIG_IGN);
  // Only this thread takes them, so they are blocked before others start.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  ThreadWorkqueue writer;
  ProgressLine progress;
  const bool quiet = arguments.quiet;
  LineLog log(
      writer,
      [&](const std::string& line) {
        if (quiet) return;
        progress.Show("");
        // Waits for the reader. A line that is lost is an error at the end, and
        // the next one is written all the same.
        std::cout.clear();
        std::cout << line << "\n" << std::flush;
      },
      [&](const std::string& text) {
        if (!quiet) progress.Show(text);
      });
  const absl::Status status = Serve(arguments, ends, log);
  constexpr auto kPatience = std::chrono::seconds(1);
  // The reader of the log is stuck, and so is its writer. All else has ended.
  if (!log.Flush(kPatience)) {
    if (CanTakeLine(STDERR_FILENO)) {
      if (!status.ok()) Fail("vmm", status);
      TellLostOutput("its reader is stuck");
    }
    std::_Exit(kExitFailure);
  }
  return status.ok() ? kExitSuccess : Fail("vmm", status);
}

}  // namespace

std::function<int()> AddVmmCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "vmm",
      "Serves balloon devices to guests in other processes, and returns the "
      "memory they report to the host. Guests connect to a Unix socket "
      "(vhost-user): QEMU and others (docs/vmm.md), or guestmm density --vmm "
      "PATH.");
  const auto arguments = std::make_shared<VmmArguments>();
  command.footer(
      "guestmm vmm --socket /tmp/balloon\n"
      "guestmm vmm --socket /run/balloon --control /run/balloon.ctl "
      "--max-rate 1G\n"
      "guestmm vmm ctl --control /run/balloon.ctl status");
  command.option_defaults()->group("Sockets");
  command
      .add_option("--socket,--socket-path", arguments->socket,
                  "Path of the socket to create")
      ->type_name("PATH");
  AddInteger(command, "--fd", 0, std::numeric_limits<int>::max(), arguments->fd,
             "Socket of the parent process, in place of --socket: one that "
             "listens, or that of a guest, which alone is served");
  command.option_defaults()->group("Guests");
  AddList(command, "--offer", arguments->offer,
          "What the balloons offer: any of reporting, hinting, balloon, "
          "statistics, poison, separated by commas [reporting,poison]");
  command.option_defaults()->group("Sockets");
  command
      .add_option("--control", arguments->control,
                  "Path of the control socket to create, for guestmm vmm ctl "
                  "[none]")
      ->type_name("PATH");
  UnixListenerOptions& socket = arguments->vmm.server.socket;
  command
      .add_option_function<std::string>(
          "--mode",
          [&socket](const std::string& text) { SetMode(text, socket.mode); },
          "Permissions of --socket, octal; write permission is needed to "
          "connect "
          "[600]")
      ->type_name("MODE");
  command
      .add_option_function<std::string>(
          "--group",
          [&socket](const std::string& text) { SetGroup(text, socket.group); },
          "Group of --socket, by name or number [that of new files]")
      ->type_name("GROUP");
  AddList(command, "--allow-uid", arguments->allowed,
          "Users whose processes may connect, by name or number, separated by "
          "commas [all]");
  command.option_defaults()->group("Guests");
  AddFields(command, ServerFields(), arguments->vmm.server);
  AddParsed(
      command, "--max-rate", kSizeType, ParseRate,
      arguments->vmm.max_discard_rate,
      "Largest rate of a guest's discards, as in 1GiB/s; 0: no limit [0]");
  const FieldKind on_off = FieldKind::Switch();
  AddField(command, "seccomp", on_off, "",
           "End the process at a system call that a server does not need "
           "[off]",
           [arguments, on_off](const std::string& text) -> absl::Status {
             const auto value = on_off.Parse(text);
             if (!value.ok()) {
               return OptionError("seccomp", text,
                                  std::string(value.status().message()));
             }
             arguments->seccomp = std::get<uint64_t>(*value) != 0;
             return absl::OkStatus();
           });
  command.option_defaults()->group("Output");
  command.add_flag("--print-capabilities", arguments->print_capabilities,
                   "Print what is served, as JSON, and exit");
  command.add_flag("--quiet", arguments->quiet, "Print errors only");
  command.option_defaults()->group("Options");
  command.callback([&command, arguments] {
    if (arguments->fd) {
      RefuseUnused(command, {"--mode", "--group"}, "with --fd");
    }
  });
  const std::function<int()> run_ctl = AddVmmCtlCommand(command);
  return [arguments, run_ctl] {
    const int ctl = run_ctl();
    return ctl >= 0 ? ctl : RunVmmCommand(*arguments);
  };
}

}  // namespace guestmm::tools
