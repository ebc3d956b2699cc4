#ifndef GUESTMM_BASE_UNIQUE_FD_H_
#define GUESTMM_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Owns a file descriptor and closes it. -1 if it owns none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  // By value: the old descriptor is closed here, not with `other`.
  UniqueFd& operator=(UniqueFd other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() {
    if (fd_ >= 0) close(fd_);
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor up to the caller.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_UNIQUE_FD_H_
