#ifndef GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_
#define GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_

#include "absl/base/thread_annotations.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {

// Told whenever a policy takes a zone's lock, and gives it back: for whoever
// measures what reporting keeps vCPUs waiting for. Zone::reporting_work() says
// what was done meanwhile.
class LockHoldObserver {
 public:
  virtual ~LockHoldObserver() = default;

  virtual void OnLocked(const Zone& zone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;
  virtual void OnUnlock(const Zone& zone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;
};

// Holds a zone's lock for a scope, as a policy does in NextBatch and
// ReturnBatch, and tells `observer`, if there is one.
class ABSL_SCOPED_LOCKABLE ZoneLockGuard {
 public:
  ZoneLockGuard(const Zone& zone, LockHoldObserver* observer)
      ABSL_EXCLUSIVE_LOCK_FUNCTION(zone.lock())
      : zone_(zone), observer_(observer) {
    zone.lock().Lock();
    if (observer != nullptr) observer->OnLocked(zone);
  }
  ~ZoneLockGuard() ABSL_UNLOCK_FUNCTION() {
    if (observer_ != nullptr) observer_->OnUnlock(zone_);
    zone_.lock().Unlock();
  }
  ZoneLockGuard(const ZoneLockGuard&) = delete;
  ZoneLockGuard& operator=(const ZoneLockGuard&) = delete;

 private:
  const Zone& zone_;
  LockHoldObserver* const observer_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_
