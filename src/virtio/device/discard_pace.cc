#include "src/virtio/device/discard_pace.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "guestmm/base/workqueue.h"

namespace guestmm {
namespace {

constexpr Nanoseconds kLongestRest = std::chrono::hours(24);

// The time that `bytes` take at `rate` bytes per second, rounded up, at most
// kLongestRest. REQUIRES: rate > 0.
Nanoseconds TimeAt(uint64_t rate, uint64_t bytes) {
  constexpr double kNanosecondsPerSecond = 1e9;
  const double time = static_cast<double>(bytes) * kNanosecondsPerSecond /
                      static_cast<double>(rate);
  const auto most = static_cast<double>(kLongestRest.count());
  return Nanoseconds(static_cast<int64_t>(std::ceil(std::min(time, most))));
}

}  // namespace

void DiscardPace::Hold(bool hold) {
  LockHolder lock(mutex_);
  holds_ = hold;
}

bool DiscardPace::holds() const {
  LockHolder hold(mutex_);
  return holds_;
}

void DiscardPace::SetMaxRate(uint64_t max_rate) {
  LockHolder hold(mutex_);
  max_rate_ = max_rate;
  rests_until_ = Nanoseconds(0);
}

uint64_t DiscardPace::max_rate() const {
  LockHolder hold(mutex_);
  return max_rate_;
}

void DiscardPace::Spend(uint64_t bytes, Nanoseconds now) {
  LockHolder hold(mutex_);
  if (max_rate_ == 0) return;
  rests_until_ =
      std::min(std::max(rests_until_, now) + TimeAt(max_rate_, bytes),
               now + kLongestRest);
}

Nanoseconds DiscardPace::Rest(Nanoseconds now) const {
  LockHolder hold(mutex_);
  if (holds_) return Workqueue::kForever;
  return std::max(rests_until_ - now, Nanoseconds(0));
}

}  // namespace guestmm
