#ifndef GUESTMM_VIRTIO_WIRE_NOTIFIER_H_
#define GUESTMM_VIRTIO_WIRE_NOTIFIER_H_

#include "guestmm/base/workqueue.h"

namespace guestmm {

// "Look at the ring", from one half of a queue to the other: a kick, or its
// answer. It carries nothing, several may become one, and one may come for
// nothing: so it can be a queued work, an eventfd or a message.
class Notifier {
 public:
  virtual ~Notifier() = default;

  // Safe from any thread and any work; must not block, nor call back into the
  // half that notifies.
  virtual void Notify() = 0;
};

// Makes a work due.
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
