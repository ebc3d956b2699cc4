#ifndef GUESTMM_SRC_MACHINE_REAL_COARSE_CLOCK_H_
#define GUESTMM_SRC_MACHINE_REAL_COARSE_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "guestmm/base/clock.h"

namespace guestmm {

// The time that was last set: for callers that cannot afford to read a clock.
class CoarseClock final : public Clock {
 public:
  Nanoseconds Now() const override {
    return Nanoseconds(now_.load(std::memory_order_relaxed));
  }
  void Set(Nanoseconds now) {
    now_.store(now.count(), std::memory_order_relaxed);
  }

 private:
  std::atomic<int64_t> now_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_REAL_COARSE_CLOCK_H_
