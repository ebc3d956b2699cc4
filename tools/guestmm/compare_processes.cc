#include "tools/guestmm/compare_processes.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace guestmm::tools {
namespace {

// This program, whatever it is called and even if its file is gone by now.
constexpr char kThisProgram[] = "/proc/self/exe";

// A folder that goes away with all that is in it.
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
    if (mkdtemp(name.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat(name, ": cannot be made: ", std::strerror(errno)));
    }
    return TemporaryFolder(std::move(name));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept
      : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;

  std::string File(const std::string& name) const {
    return (path_ / name).string();
  }
  std::string Contents(const std::string& name) const {
    std::ostringstream text;
    std::ifstream file(path_ / name);
    // Of an empty file nothing is written, which would be a failure of `text`.
    if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
    return text.str();
  }
  std::string name() const { return path_.string(); }

 private:
  explicit TemporaryFolder(std::filesystem::path path)
      : path_(std::move(path)) {}

  std::filesystem::path path_;
};

// Runs this program to its end. Its stdout goes nowhere, its stderr to a file.
absl::Status RunThisProgram(std::vector<std::string> arguments,
                            const std::string& stderr_file) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY,
                                   0);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, stderr_file.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, kThisProgram, &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return absl::InternalError(
        absl::StrCat("cannot be started: ", std::strerror(error)));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) {
      return absl::InternalError(
          absl::StrCat("cannot be waited for: ", std::strerror(errno)));
    }
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

absl::StatusOr<CompareProcess> RunOneProcess(
    const std::vector<std::string>& arguments) {
  const absl::StatusOr<TemporaryFolder> folder = TemporaryFolder::Make();
  if (!folder.ok()) return folder.status();
  std::vector<std::string> all = {"guestmm", "compare"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  all.push_back("--out=" + folder->name());
  const absl::Status ran = RunThisProgram(all, folder->File("stderr"));
  if (!ran.ok()) {
    std::cerr << folder->Contents("stderr");
    return ran;
  }
  absl::StatusOr<std::vector<CompareRow>> rows =
      ParseCompareSummary("summary.json", folder->Contents("summary.json"));
  if (!rows.ok()) return rows.status();
  absl::StatusOr<std::vector<CompareSample>> samples =
      ParseCompareSeries("series.csv", folder->Contents("series.csv"));
  if (!samples.ok()) return samples.status();
  return CompareProcess{.rows = *std::move(rows),
                        .samples = *std::move(samples)};
}

}  // namespace

absl::StatusOr<CompareResult> RunInProcesses(
    const CompareOptions& resolved, const std::vector<std::string>& arguments,
    const std::function<void(uint64_t done)>& progress) {
  std::vector<CompareProcess> processes;
  for (uint64_t i = 0; i < resolved.processes; ++i) {
    progress(i);
    absl::StatusOr<CompareProcess> process = RunOneProcess(arguments);
    if (!process.ok()) {
      // Not what the user asked for is wrong, whatever the process says.
      return absl::InternalError(
          absl::StrCat("process ", i + 1, " of ", resolved.processes, ": ",
                       std::string(process.status().message())));
    }
    processes.push_back(*std::move(process));
  }
  return MergeProcesses(resolved, processes);
}

}  // namespace guestmm::tools
