#include "guestmm/base/output_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/base/uninterrupted.h"

namespace guestmm {
namespace {

namespace fs = std::filesystem;

absl::Status CannotBeWritten(const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat(path, ": cannot be written: ", std::strerror(error)));
}

// The path at the end of the symbolic links at `path`, which may lead to no
// file. Links within its folder's path stay.
absl::StatusOr<fs::path> WithoutLinks(const std::string& path) {
  constexpr int kMostLinks = 40;  // Linux's
  fs::path target = path;
  for (int links = 0; links <= kMostLinks; ++links) {
    std::error_code error;
    const fs::path next = fs::read_symlink(target, error);
    // It is no link, or is not there.
    if (error) return target;
    target = target.parent_path() / next;
  }
  return CannotBeWritten(path, ELOOP);
}

// In the folder of `target`.
absl::StatusOr<std::string> RandomName(const fs::path& target) {
  uint64_t random = 0;
  if (Uninterrupted([&] { return getrandom(&random, sizeof random, 0); }) < 0) {
    return CannotBeWritten(target, errno);
  }
  const std::string name = absl::StrFormat(".guestmm-%016x", random);
  return (target.parent_path() / name).string();
}

}  // namespace

int WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd polled = {.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&polled, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError("\"\": must be the path of a file");
  }
  struct stat found = {};
  const bool exists = stat(path.c_str(), &found) == 0;
  if (exists && S_ISDIR(found.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": must be a file; it is a folder"));
  }
  if (exists && !S_ISREG(found.st_mode)) {
    // Waits until a FIFO has a reader.
    UniqueFd fd(Uninterrupted(
        [&] { return open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY); }));
    if (!fd.valid()) return CannotBeWritten(path, errno);
    return OutputFile(path, std::move(fd));
  }
  const absl::StatusOr<fs::path> target = WithoutLinks(path);
  if (!target.ok()) return target.status();
  const absl::StatusOr<std::string> temporary = RandomName(*target);
  if (!temporary.ok()) return temporary.status();
  const SignalHold hold;
  UniqueFd fd(open(temporary->c_str(),
                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!fd.valid()) {
    const bool is_link = target->string() != path;
    return CannotBeWritten(
        is_link ? absl::StrCat(path, ", a link to ", target->string()) : path,
        errno);
  }
  OutputFile file(path, std::move(fd));
  file.target_ = target->string();
  file.temporary_ = *temporary;
  file.cleanup_ = SignalCleanup::File(hold, *temporary);
  // Some file systems have no permissions.
  if (exists) (void)fchmod(file.fd_.get(), found.st_mode & 07777);
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      cleanup_(std::move(other.cleanup_)),
      status_(std::move(other.status_)) {}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status OutputFile::Failed(int error) {
  status_ = CannotBeWritten(path_, error);
  return status_;
}

absl::Status OutputFile::Write(std::string_view bytes) {
  if (!status_.ok()) return status_;
  const int error = WriteAll(fd_.get(), bytes);
  return error == 0 ? status_ : Failed(error);
}

absl::Status OutputFile::Close() {
  if (!status_.ok() || !fd_.valid()) return status_;
  // Without fsync the renamed file could be empty after a crash of the machine.
  if (!temporary_.empty() && fsync(fd_.get()) != 0) return Failed(errno);
  const int error = close(fd_.Release()) == 0 ? 0 : errno;
  return error == 0 || error == EINTR ? status_ : Failed(error);
}

absl::Status OutputFile::Commit() {
  if (!Close().ok() || temporary_.empty()) return status_;
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) {
    return Failed(errno);
  }
  temporary_.clear();
  cleanup_ = SignalCleanup();
  return status_;
}

}  // namespace guestmm
