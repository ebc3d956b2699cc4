#ifndef GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
#define GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/signal_cleanup.h"

namespace GUESTMM_EXPORT guestmm {

// A file of an experiment's results: its name in their folder, and its text,
// which is made when it is wanted.
struct ResultFile {
  std::string name;
  std::function<std::string()> text;
};

// The folder of an experiment's files. They are written whole, and all or none.
// What was created of its path is removed at the end, or by a signal that ends
// the process, unless something was put there.
class OutputDirectory {
 public:
  // Creates the folder `path` and its parents where they do not exist. What
  // else it holds stays, but if it has one of the files `names`, which are to
  // be written, it is AlreadyExists unless `force`. FailedPrecondition if it
  // cannot be created or is no folder; PermissionDenied if it is not writable.
  // InvalidArgument for no path. Messages begin with the path, and fit after
  // "--out=".
  static absl::StatusOr<OutputDirectory> Open(
      const std::string& path, std::span<const std::string> names, bool force);

  OutputDirectory(OutputDirectory&& other) noexcept = default;
  OutputDirectory& operator=(OutputDirectory&& other) = delete;
  ~OutputDirectory();

  // Writes `files`, replacing those of the same names. Unavailable, with the
  // file and the reason, if one cannot be written: then the old ones stay as
  // they were, but for those renamed before a failure of a rename.
  absl::Status Write(std::span<const ResultFile> files) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit OutputDirectory(std::filesystem::path path)
      : path_(std::move(path)) {}

  // Creates what there is not of the path.
  absl::Status Create();

  std::filesystem::path path_;
  // What was created, the outermost first; empty once moved from.
  std::vector<std::filesystem::path> created_;
  std::vector<SignalCleanup> cleanups_;
};

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_OUTPUT_DIRECTORY_H_
