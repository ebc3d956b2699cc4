#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include "guestmm/base/clock.h"
#include "guestmm/base/workqueue.h"

namespace guestmm {

// Keeps a replay from running faster than another clock allows.
class ReplayPace {
 public:
  // Allows `speed` seconds of the trace per second of `clock` from now on.
  // Once `stopped`, unless empty, returns true, nothing is waited for. `clock`
  // must outlive this. REQUIRES: speed > 0.
  ReplayPace(double speed, Workqueue& clock, std::function<bool()> stopped = {})
      : speed_(speed),
        clock_(clock),
        stopped_(std::move(stopped)),
        start_(clock.Now()),
        now_(start_) {}

  // Waits until `passed` of the trace's time may have passed; true if it had
  // to. Waits of less than a millisecond, which no thread can keep exactly, are
  // deferred to later calls.
  bool WaitFor(Nanoseconds passed) {
    const Nanoseconds due =
        start_ + Nanoseconds(static_cast<int64_t>(
                     static_cast<double>(passed.count()) / speed_));
    // Most events are due already; for those the clock is not read.
    if (due - now_ < kShortestWait) return false;
    now_ = clock_.Now();
    while (due - now_ >= kShortestWait && !(stopped_ && stopped_())) {
      clock_.WaitUntil([] { return false; },
                       std::min(due - now_, kLongestWait));
      now_ = clock_.Now();
    }
    return true;
  }

 private:
  static constexpr Nanoseconds kShortestWait = std::chrono::milliseconds(1);
  // Until `stopped` is asked again.
  static constexpr Nanoseconds kLongestWait = std::chrono::milliseconds(100);

  const double speed_;
  Workqueue& clock_;
  const std::function<bool()> stopped_;
  const Nanoseconds start_;
  Nanoseconds now_;  // as last read
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_PACE_H_
