#include "guestmm/experiment/report/output_directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/output_file.h"

namespace guestmm {

absl::StatusOr<OutputDirectory> OutputDirectory::Open(
    const std::string& path, std::span<const std::string> names, bool force) {
  if (path.empty()) {
    return absl::InvalidArgumentError("\"\": must be the path of a folder");
  }
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": must be a folder that can be created: ", error.message()));
  }
  if (!std::filesystem::is_directory(path, error)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": must be a folder"));
  }
  if (access(path.c_str(), W_OK | X_OK) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        path,
        ": must be a writable folder: ", std::string(std::strerror(errno))));
  }
  OutputDirectory directory(path);
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
