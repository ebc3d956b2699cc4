#ifndef GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
#define GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_

#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace guestmm {

// The folder of an experiment's files. A file is written whole or not at all.
class OutputDirectory {
 public:
  // Creates the folder `path` and its parents where they do not exist.
  // FailedPrecondition if that fails or `path` is no folder; PermissionDenied
  // if it is not writable. Messages begin with the path, and fit after
  // "--out=".
  static absl::StatusOr<OutputDirectory> Open(const std::string& path);

  // Writes the file `name`, replacing one of that name. Unavailable if writing
  // fails, which leaves the old file as it was.
  absl::Status Write(const std::string& name, std::string_view contents) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit OutputDirectory(std::filesystem::path path)
      : path_(std::move(path)) {}

  std::filesystem::path path_;
};

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
