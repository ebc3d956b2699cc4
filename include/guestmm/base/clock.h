#ifndef GUESTMM_BASE_CLOCK_H_
#define GUESTMM_BASE_CLOCK_H_

#include <chrono>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Durations, and times since a clock's own zero.
using Nanoseconds = std::chrono::nanoseconds;

inline double ToSeconds(Nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// The only source of time in the library. Real in MonotonicClock, simulated in
// VirtualTime (guestmm/base/virtual_time.h).
class Clock {
 public:
  virtual ~Clock() = default;

  // Time since this clock's zero. Never goes back.
  virtual Nanoseconds Now() const = 0;
};

// The host's monotonic clock; its zero is its construction.
class MonotonicClock final : public Clock {
 public:
  Nanoseconds Now() const override {
    return std::chrono::steady_clock::now() - zero_;
  }

 private:
  std::chrono::steady_clock::time_point zero_ =
      std::chrono::steady_clock::now();
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_CLOCK_H_
