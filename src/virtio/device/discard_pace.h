#ifndef GUESTMM_SRC_VIRTIO_DEVICE_DISCARD_PACE_H_
#define GUESTMM_SRC_VIRTIO_DEVICE_DISCARD_PACE_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"

namespace guestmm {

// When a device may discard next: not while it is on hold, and at most at a
// rate. Thread-safe.
class DiscardPace {
 public:
  // As SetMaxRate.
  explicit DiscardPace(uint64_t max_rate) : max_rate_(max_rate) {}

  void Hold(bool hold);
  bool holds() const;
  // In bytes per second; 0: no limit. Ends the rest that is due.
  void SetMaxRate(uint64_t max_rate);
  uint64_t max_rate() const;

  // Enters a discard of `bytes`: a rest of as long as they take at the rate is
  // due. All rests that are due are a day at most.
  void Spend(uint64_t bytes, Nanoseconds now);
  // The time until the next discard may begin; Workqueue::kForever while on
  // hold.
  Nanoseconds Rest(Nanoseconds now) const;

 private:
  // A leaf lock.
  mutable Mutex mutex_;
  bool holds_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t max_rate_ ABSL_GUARDED_BY(mutex_);
  Nanoseconds rests_until_ ABSL_GUARDED_BY(mutex_){0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DEVICE_DISCARD_PACE_H_
