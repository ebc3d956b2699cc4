// One process of several.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/experiment/compare/compare.h"
#include "src/base/uninterrupted.h"

namespace guestmm {
namespace {

// What a process leaves.
constexpr char kStderr[] = "stderr";
constexpr char kSummary[] = "summary.json";
constexpr char kSeries[] = "series.csv";

// A folder that is removed, with its files, by the destructor, and by signals.
class TemporaryFolder {
 public:
  static absl::StatusOr<TemporaryFolder> Make() {
    std::error_code error;
    const std::filesystem::path parent =
        std::filesystem::temp_directory_path(error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("the folder for temporary files: ", error.message()));
    }
    std::string name = (parent / "guestmm-XXXXXX").string();
    const SignalHold hold;
    if (mkdtemp(name.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat(name, ": cannot be made: ", std::strerror(errno)));
    }
    TemporaryFolder folder(std::move(name));
    folder.cleanups_.push_back(SignalCleanup::Folder(hold, folder.name()));
    for (const char* const file : {kStderr, kSummary, kSeries}) {
      folder.cleanups_.push_back(SignalCleanup::File(hold, folder.File(file)));
    }
    return folder;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept
      : path_(std::exchange(other.path_, {})),
        cleanups_(std::move(other.cleanups_)) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;

  std::string File(const std::string& name) const {
    return (path_ / name).string();
  }
  // Empty if there is no such file.
  std::string Contents(const std::string& name) const {
    std::ostringstream text;
    std::ifstream file(path_ / name);
    // Inserting an empty file would set text's failbit.
    if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
    return text.str();
  }
  std::string name() const { return path_.string(); }

 private:
  explicit TemporaryFolder(std::filesystem::path path)
      : path_(std::move(path)) {}

  std::filesystem::path path_;
  std::vector<SignalCleanup> cleanups_;
};

// The others tell of progress.
std::string LastLine(std::string text) {
  absl::StripTrailingAsciiWhitespace(&text);
  return text.substr(text.rfind('\n') + 1);
}

// Starts a program, its stdout discarded and its stderr in a file. `hold`: held
// since before the start.
absl::StatusOr<pid_t> StartProgram(std::vector<std::string> command,
                                   const std::string& stderr_file,
                                   const SignalHold& hold) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY,
                                   0);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, stderr_file.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigmask(&attributes, &hold.outer_mask());
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv.front(), &files, &attributes,
                                argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return absl::InternalError(
        absl::StrCat("cannot be started: ", std::strerror(error)));
  }
  return pid;
}

// Runs a program to its end, its stdout discarded and its stderr in a file.
absl::Status RunProgram(std::vector<std::string> command,
                        const std::string& stderr_file) {
  pid_t pid = 0;
  SignalCleanup cleanup;
  {
    const SignalHold hold;
    const absl::StatusOr<pid_t> started =
        StartProgram(std::move(command), stderr_file, hold);
    if (!started.ok()) return started.status();
    pid = *started;
    cleanup = SignalCleanup::Process(hold, pid);
  }
  // Its number is its own until it is reaped, so that is after the cleanup.
  siginfo_t ended = {};
  int waited = Uninterrupted([&] {
    return waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT);
  });
  cleanup = SignalCleanup();
  int status = 0;
  if (waited == 0) {
    waited = Uninterrupted([&] { return waitpid(pid, &status, 0); });
  }
  if (waited < 0) {
    return absl::InternalError(
        absl::StrCat("cannot be waited for: ", std::strerror(errno)));
  }
  if (WIFSIGNALED(status)) {
    return absl::InternalError(absl::StrCat("was ended by signal ",
                                            WTERMSIG(status), ", ",
                                            strsignal(WTERMSIG(status))));
  }
  if (WEXITSTATUS(status) != 0) {
    return absl::InternalError(
        absl::StrCat("ended with exit status ", WEXITSTATUS(status)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CompareProcess> RunCompareProcess(
    const std::vector<std::string>& command) {
  const absl::StatusOr<TemporaryFolder> folder = TemporaryFolder::Make();
  if (!folder.ok()) return folder.status();
  std::vector<std::string> whole = command;
  whole.push_back("--out=" + folder->name());
  if (const absl::Status ran = RunProgram(whole, folder->File(kStderr));
      !ran.ok()) {
    const std::string said = LastLine(folder->Contents(kStderr));
    if (said.empty()) return ran;
    return absl::InternalError(absl::StrCat(ran.message(), ": ", said));
  }
  absl::StatusOr<std::vector<CompareRow>> rows =
      ParseCompareSummary(kSummary, folder->Contents(kSummary));
  if (!rows.ok()) return rows.status();
  absl::StatusOr<std::vector<CompareSample>> samples =
      ParseCompareSeries(kSeries, folder->Contents(kSeries));
  if (!samples.ok()) return samples.status();
  return CompareProcess{.rows = *std::move(rows),
                        .samples = *std::move(samples)};
}

}  // namespace guestmm
