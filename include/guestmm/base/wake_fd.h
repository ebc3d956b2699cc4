#ifndef GUESTMM_BASE_WAKE_FD_H_
#define GUESTMM_BASE_WAKE_FD_H_

#include <sys/eventfd.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>

#include "guestmm/base/unique_fd.h"

namespace guestmm {

// What a thread polls beside other file descriptors, so that others can wake
// it. Safe from any thread.
class WakeFd {
 public:
  WakeFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // False if the process has no file descriptor left: errno tells.
  bool valid() const { return fd_.valid(); }
  // To be polled for POLLIN.
  int get() const { return fd_.get(); }

  void Wake() const {
    const uint64_t one = 1;
    // Only a counter that is full refuses it, and that wakes already.
    [[maybe_unused]] const ssize_t written =
        write(fd_.get(), &one, sizeof(one));
  }
  // Whoever was woken sleeps again until the next Wake.
  void Drain() const {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t drained =
        read(fd_.get(), &count, sizeof(count));
  }

 private:
  UniqueFd fd_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_WAKE_FD_H_
