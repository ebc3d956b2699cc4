#ifndef GUESTMM_VIRTIO_EVENT_FD_NOTIFIER_H_
#define GUESTMM_VIRTIO_EVENT_FD_NOTIFIER_H_

#include <atomic>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/virtio/notifier.h"

namespace guestmm {

// Notifies whoever reads an eventfd, which may be another process.
class EventFdNotifier final : public Notifier {
 public:
  // From here on `event_fd` is written to; none of it: nothing.
  void Set(UniqueFd event_fd);

  // An eventfd that is full says already that there is something to look at.
  void Notify() override;

  // From its return on nothing is written, until the next Set. Whoever shares
  // the eventfd can fill it at the wrong moment, so that a write waits: this
  // lets it end.
  void Close();

 private:
  std::shared_ptr<const UniqueFd> Current() const;

  mutable SpinLock lock_;
  std::shared_ptr<const UniqueFd> event_fd_ ABSL_GUARDED_BY(lock_);
  // Notify calls under way.
  std::atomic<int> writers_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_EVENT_FD_NOTIFIER_H_
