#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_CLOCK_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_CLOCK_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/experiment/replay/replay.h"
#include "src/experiment/replay/replay_pace.h"

namespace guestmm {

// The trace's clock, which advances virtual time. Virtual time begins at 0
// where the replay starts.
class TraceClock {
 public:
  // `watch`: what `speed` is relative to, and what stops the clock. Both
  // references must outlive this.
  TraceClock(VirtualTime& time, std::optional<double> speed,
             const ReplayWatch& watch)
      : time_(time), speed_(speed), watch_(watch) {}

  // Sets the trace's time at virtual time 0. REQUIRES: not started.
  void Start(Nanoseconds start) {
    start_ = start;
    if (!speed_) return;
    Workqueue* const clock =
        watch_.clock != nullptr ? watch_.clock : &real_time_.emplace();
    pace_.emplace(*speed_, *clock, watch_.stopped);
  }
  bool started() const { return start_.has_value(); }

  // REQUIRES for all below: started.
  Nanoseconds start() const { return *start_; }
  Nanoseconds Now() const { return ToTraceTime(time_.Now()); }
  Nanoseconds ToTraceTime(Nanoseconds virtual_time) const {
    return *start_ + virtual_time;
  }

  // Runs what is due up to `time`, waiting if that would be faster than the
  // speed allows. No effect if `time` is not later than now. False, with no
  // effect, once the replay is stopped.
  bool RunUntil(Nanoseconds time) {
    calls_left_ = 0;
    return RunOn(time);
  }
  // The same for times that follow each other within microseconds: whether the
  // replay is stopped is asked only after waits, and some thousands of calls.
  bool RunOn(Nanoseconds time) {
    const Nanoseconds now = Now();
    if (pace_ && time > now && pace_->WaitFor(time - *start_)) calls_left_ = 0;
    if (calls_left_-- == 0) {
      if (watch_.stopped && watch_.stopped()) return false;
      calls_left_ = kCallsUntilAsked;
    }
    if (time > now) time_.RunFor(time - now);
    return true;
  }

  // True unless `time` is more than kLongestReplay after the start.
  bool Reaches(Nanoseconds time) const {
    // Unsigned, so that the difference cannot overflow.
    return time <= *start_ || static_cast<uint64_t>(time.count()) -
                                      static_cast<uint64_t>(start_->count()) <=
                                  static_cast<uint64_t>(kLongestReplay.count());
  }
  // The error if not: InvalidArgument, naming `trace` and `what`.
  absl::Status TooLate(Nanoseconds time, std::string_view trace,
                       std::string_view what) const;

 private:
  static constexpr int kCallsUntilAsked = 4096;

  VirtualTime& time_;
  int calls_left_ = 0;
  const std::optional<double> speed_;
  const ReplayWatch& watch_;
  std::optional<ThreadWorkqueue> real_time_;
  std::optional<ReplayPace> pace_;
  std::optional<Nanoseconds> start_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_TRACE_CLOCK_H_
