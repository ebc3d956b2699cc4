#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_

#include <chrono>
#include <cstdint>

#include "guestmm/base/clock.h"
#include "guestmm/base/workqueue.h"

namespace guestmm {

// Keeps a replay from running faster than another clock allows.
class ReplayPace {
 public:
  // Allows `speed` seconds of the trace per second of `clock` from now on.
  // `clock` must outlive this. REQUIRES: speed > 0.
  ReplayPace(double speed, Workqueue& clock)
      : speed_(speed), clock_(clock), start_(clock.Now()), now_(start_) {}

  // Waits until `passed` of the trace's time may have passed. Waits of less
  // than a millisecond, which no thread can keep exactly, are deferred to later
  // calls.
  void WaitFor(Nanoseconds passed) {
    const Nanoseconds due =
        start_ + Nanoseconds(static_cast<int64_t>(
                     static_cast<double>(passed.count()) / speed_));
    // Most events are due already; for those the clock is not read.
    if (due - now_ < kShortestWait) return;
    now_ = clock_.Now();
    if (due - now_ < kShortestWait) return;
    clock_.WaitUntil([] { return false; }, due - now_);
    now_ = clock_.Now();
  }

 private:
  static constexpr Nanoseconds kShortestWait = std::chrono::milliseconds(1);

  const double speed_;
  Workqueue& clock_;
  const Nanoseconds start_;
  Nanoseconds now_;  // as last read
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_
