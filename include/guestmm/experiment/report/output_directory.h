#ifndef GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
#define GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_

#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace guestmm {

// Where an experiment leaves its files. A file is there whole or not at all.
class OutputDirectory {
 public:
  // Makes `path`, parents included, unless it is there. PermissionDenied or
  // FailedPrecondition, saying why, if files cannot be written into it.
  static absl::StatusOr<OutputDirectory> Open(const std::string& path);

  // Writes `name`, replacing what was there. Unavailable if that fails; then
  // what was there is still there.
  absl::Status Write(const std::string& name, std::string_view contents) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit OutputDirectory(std::filesystem::path path)
      : path_(std::move(path)) {}

  std::filesystem::path path_;
};

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
