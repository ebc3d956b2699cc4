#ifndef GUESTMM_VIRTIO_WIRE_NOTIFIER_H_
#define GUESTMM_VIRTIO_WIRE_NOTIFIER_H_

#include "guestmm/base/export.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

// Notifies the other side of a queue to look at the ring: a kick (driver to
// device) or a call (device to driver). A notification carries no data. Several
// may be merged into one, and one may be spurious, so it can be implemented as
// queued work, an eventfd or a message.
class Notifier {
 public:
  virtual ~Notifier() = default;

  // Thread-safe; may also be called from any work. Must neither block nor call
  // back into the caller.
  virtual void Notify() = 0;
};

// Queues a work.
class WorkNotifier final : public Notifier {
 public:
  // `queue` and `work` must outlive this.
  WorkNotifier(Workqueue& queue, Work& work) : queue_(queue), work_(work) {}

  void Notify() override { queue_.Queue(work_); }

 private:
  Workqueue& queue_;
  Work& work_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_NOTIFIER_H_
