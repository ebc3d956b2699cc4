#include "guestmm/experiment/report/output_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/output_file.h"

namespace guestmm {
namespace {

namespace fs = std::filesystem;

// Says why `at`, a path of something, is no folder.
std::string WhyNoFolder(const fs::path& at) {
  std::error_code error;
  const fs::path target = fs::read_symlink(at, error);
  if (error || fs::exists(at, error)) return std::strerror(ENOTDIR);
  return absl::StrCat(at.string(), " is a link to ", target.string(),
                      ", which does not exist");
}

}  // namespace

absl::StatusOr<OutputDirectory> OutputDirectory::Open(
    const std::string& path, std::span<const std::string> names, bool force) {
  if (path.empty()) {
    return absl::InvalidArgumentError("\"\": must be the path of a folder");
  }
  OutputDirectory directory(path);
  if (absl::Status status = directory.Create(); !status.ok()) return status;
  if (access(path.c_str(), W_OK | X_OK) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        path,
        ": must be a writable folder: ", std::string(std::strerror(errno))));
  }
  std::error_code error;
  for (const std::string& name : names) {
    if (force || !std::filesystem::exists(directory.path_ / name, error)) {
      continue;
    }
    return absl::AlreadyExistsError(absl::StrCat(
        path,
        ": must be a folder without results, or --force be given; it has ",
        name));
  }
  return directory;
}

absl::Status OutputDirectory::Create() {
  std::error_code error;
  fs::path at;
  for (const fs::path& name : path_) {
    at /= name;
    if (fs::is_directory(at, error)) continue;
    const SignalHold hold;
    if (mkdir(at.c_str(), 0777) == 0) {
      created_.push_back(at);
      cleanups_.push_back(SignalCleanup::Folder(hold, at));
    } else if (const int why = errno;
               why != EEXIST || !fs::is_directory(at, error)) {
      return absl::FailedPreconditionError(absl::StrCat(
          path_.string(), ": must be a folder that can be created: ",
          why == EEXIST ? WhyNoFolder(at) : std::strerror(why)));
    }
  }
  return absl::OkStatus();
}

OutputDirectory::~OutputDirectory() {
  for (auto at = created_.rbegin(); at != created_.rend(); ++at) {
    rmdir(at->c_str());
  }
}

absl::Status OutputDirectory::Write(std::span<const ResultFile> files) const {
  std::vector<OutputFile> written;
  for (const ResultFile& file : files) {
    absl::StatusOr<OutputFile> made =
        OutputFile::Create((path_ / file.name).string());
    if (!made.ok()) return made.status();
    absl::Status status = made->Write(file.text());
    status.Update(made->Close());
    if (!status.ok()) return status;
    written.push_back(*std::move(made));
  }
  for (OutputFile& file : written) {
    absl::Status status = file.Commit();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace guestmm
