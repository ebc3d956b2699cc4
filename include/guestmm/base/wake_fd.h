#ifndef GUESTMM_BASE_WAKE_FD_H_
#define GUESTMM_BASE_WAKE_FD_H_

#include <sys/eventfd.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/base/unique_fd.h"

namespace GUESTMM_EXPORT guestmm {

// A file descriptor that a thread polls beside others, so that other threads
// can wake it. Thread-safe.
class WakeFd {
 public:
  WakeFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // False if it could not be created, e.g. at the limit of open files (errno).
  bool valid() const { return fd_.valid(); }
  // The descriptor to poll for POLLIN.
  int get() const { return fd_.get(); }

  void Wake() const {
    const uint64_t one = 1;
    // Fails only if the counter is full, which wakes the poller anyway.
    [[maybe_unused]] const ssize_t written =
        write(fd_.get(), &one, sizeof(one));
  }
  // Consumes the wake-ups: a poll blocks again until the next Wake.
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
