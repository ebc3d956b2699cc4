#include "src/machine/real/hold_timer.h"

namespace guestmm {

void HoldTimer::OnLocked(const Zone&) { locked_at_ = clock_.Now(); }

void HoldTimer::OnUnlock(const Zone&) {
  const Nanoseconds took = clock_.Now() - locked_at_;
  LockHolder hold(mutex_);
  times_.Add(static_cast<uint64_t>(took.count()));
}

HoldTimes HoldTimer::times() const {
  LockHolder hold(mutex_);
  return times_;
}

}  // namespace guestmm
