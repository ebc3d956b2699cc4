#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_MEMORY_BUDGET_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_MEMORY_BUDGET_H_

#include <sys/types.h>

#include <cstdint>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"

namespace guestmm {

// The guest RAM that all sessions of a server map, in total and by user, and
// its limits. Thread-safe.
class MemoryBudget {
 public:
  MemoryBudget(uint64_t most, uint64_t most_per_uid)
      : most_(most), most_per_uid_(most_per_uid) {}

  // ResourceExhausted, with no effect, if a limit would be exceeded.
  absl::Status Take(uid_t uid, uint64_t bytes) {
    LockHolder hold(mutex_);
    uint64_t& of_uid = by_uid_[uid];
    if (bytes > most_ - taken_) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s in addition to %s of all guests: must be at most %s in total",
          FormatBytes(bytes), FormatBytes(taken_), FormatBytes(most_)));
    }
    if (bytes > most_per_uid_ - of_uid) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s in addition to %s of guests of user %d: must be at most %s in "
          "total",
          FormatBytes(bytes), FormatBytes(of_uid), uid,
          FormatBytes(most_per_uid_)));
    }
    taken_ += bytes;
    of_uid += bytes;
    return absl::OkStatus();
  }

  // REQUIRES: `uid` took as much.
  void Return(uid_t uid, uint64_t bytes) {
    LockHolder hold(mutex_);
    taken_ -= bytes;
    uint64_t& of_uid = by_uid_[uid];
    of_uid -= bytes;
    if (of_uid == 0) by_uid_.erase(uid);
  }

 private:
  const uint64_t most_;
  const uint64_t most_per_uid_;
  Mutex mutex_;
  uint64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uid_t, uint64_t> by_uid_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_MEMORY_BUDGET_H_
