#ifndef GUESTMM_BASE_OUTPUT_FILE_H_
#define GUESTMM_BASE_OUTPUT_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/base/unique_fd.h"

namespace GUESTMM_EXPORT guestmm {

// Writes all of `bytes`, and waits where the file is non-blocking. Returns 0,
// or the errno of the write that failed.
int WriteAll(int fd, std::string_view bytes);

// A file that is written whole or not at all: under a random name in its
// folder, and renamed by Commit over a regular file or none. A symbolic link
// stays, and the file that it names is written. A file that is replaced leaves
// its permissions. A device or a FIFO cannot be replaced; it is opened and
// written to. Signals remove what is not committed (CleanUpAtSignals). Messages
// begin with the path as it was given.
class OutputFile {
 public:
  // InvalidArgument for no path and for a folder; Unavailable, with the reason,
  // if it cannot be created.
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) = delete;
  // Without Commit removes what was written, except from a device or a FIFO.
  ~OutputFile();

  // Unavailable, with the reason, if the file does not take them; so is every
  // later call.
  absl::Status Write(std::string_view bytes);
  // Ends writing: what was written is on the disk, under the random name yet.
  // A second call changes nothing.
  absl::Status Close();
  // Closes the file and gives it its name.
  absl::Status Commit();

 private:
  OutputFile(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::Status Failed(int error);

  // As it was given.
  std::string path_;
  UniqueFd fd_;
  // The path without links, and the temporary one beside it. Both are empty for
  // what is written to directly, and after Commit.
  std::string target_;
  std::string temporary_;
  SignalCleanup cleanup_;
  absl::Status status_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_OUTPUT_FILE_H_
