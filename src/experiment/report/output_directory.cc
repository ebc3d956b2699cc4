#include "guestmm/experiment/report/output_directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace guestmm {

absl::StatusOr<OutputDirectory> OutputDirectory::Open(const std::string& path) {
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
  return OutputDirectory(path);
}

absl::Status OutputDirectory::Write(const std::string& name,
                                    std::string_view contents) const {
  const std::filesystem::path target = path_ / name;
  const std::filesystem::path partial = path_ / (name + ".partial");
  {
    std::ofstream file(partial, std::ios::binary | std::ios::trunc);
    file << contents;
    file.close();
    if (!file) {
      std::error_code ignored;
      std::filesystem::remove(partial, ignored);
      return absl::UnavailableError(
          absl::StrCat(target.string(), ": cannot be written"));
    }
  }
  std::error_code error;
  std::filesystem::rename(partial, target, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat(
        target.string(), ": cannot be written: ", error.message()));
  }
  return absl::OkStatus();
}

}  // namespace guestmm
