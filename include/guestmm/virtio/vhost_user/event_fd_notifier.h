#ifndef GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_
#define GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/virtio/wire/notifier.h"

namespace guestmm {

// Notifies whoever reads an eventfd, which may be another process.
class EventFdNotifier final : public Notifier {
 public:
  // From here on `event_fd` is written to, and what was before is not: its
  // writers have left. Whoever shares an eventfd can fill it at the wrong
  // moment, so that a write waits: this lets it end.
  void Set(UniqueFd event_fd) { Replace(std::move(event_fd)); }
  // From its return on nothing is written, until the next Set.
  void Close() { Replace(UniqueFd()); }

  // An eventfd that is full says already that there is something to look at.
  void Notify() override;

 private:
  struct Target {
    UniqueFd event_fd;
    // Calls of Notify that may write to it.
    std::atomic<int> writers{0};
  };

  void Replace(UniqueFd event_fd);

  SpinLock lock_;
  // Null for none.
  std::shared_ptr<Target> target_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_EVENT_FD_NOTIFIER_H_
