#ifndef GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_
#define GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/virtio/wire/notifier.h"

namespace GUESTMM_EXPORT guestmm {

// Notifies by writing to an eventfd, which another process may read.
class EventFdNotifier final : public Notifier {
 public:
  // From now on Notify writes to `event_fd` only. Waits for writes to the
  // previous one to end. The process that shares an eventfd can fill it at any
  // time, so that a write blocks: this drains it.
  void Set(UniqueFd event_fd) { Replace(std::move(event_fd)); }
  // After this returns nothing is written, until the next Set.
  void Close() { Replace(UniqueFd()); }

  // No effect if the eventfd is full: its reader has a notification to read
  // then.
  void Notify() override;

 private:
  struct Target {
    UniqueFd event_fd;
    // Calls of Notify that may be writing to it.
    std::atomic<int> writers{0};
  };

  void Replace(UniqueFd event_fd);

  SpinLock lock_;
  // Null if there is no eventfd.
  std::shared_ptr<Target> target_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_
