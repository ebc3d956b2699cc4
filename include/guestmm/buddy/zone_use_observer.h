#ifndef GUESTMM_BUDDY_ZONE_USE_OBSERVER_H_
#define GUESTMM_BUDDY_ZONE_USE_OBSERVER_H_

#include <cstddef>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

class Zone;

// Notified each time the allocator has taken a zone's lock to serve requests or
// frees: what a model of lock contention charges for.
class ZoneUseObserver {
 public:
  virtual ~ZoneUseObserver() = default;

  // `blocks` blocks were moved from the zone's free lists to a vCPU or its
  // per-CPU list, or the other way; 0 if there was none to take. Only records;
  // must not call back into the allocator. The caller holds zone.lock().
  virtual void OnZoneUsed(const Zone& zone, size_t blocks) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONE_USE_OBSERVER_H_
