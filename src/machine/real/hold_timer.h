#ifndef GUESTMM_SRC_MACHINE_REAL_HOLD_TIMER_H_
#define GUESTMM_SRC_MACHINE_REAL_HOLD_TIMER_H_

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/host/accounting/hold_times.h"
#include "guestmm/reporting/zone_lock_guard.h"

namespace guestmm {

// Measures the reporter's holds of zone locks.
class HoldTimer final : public LockHoldObserver {
 public:
  // `clock` must outlive this.
  explicit HoldTimer(const Clock& clock) : clock_(clock) {}

  void OnLocked(const Zone& zone) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void OnUnlock(const Zone& zone) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());

  HoldTimes times() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const Clock& clock_;
  // Not guarded: a policy holds one lock at a time, on one thread at a time.
  Nanoseconds locked_at_{0};
  mutable SpinLock mutex_;
  HoldTimes times_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_REAL_HOLD_TIMER_H_
