#ifndef GUESTMM_FRAME_RECLAIMER_H_
#define GUESTMM_FRAME_RECLAIMER_H_

#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

// A holder of reclaimable pages, e.g. the page cache (a shrinker).
class Reclaimer {
 public:
  // The pages of a reclaimer that are on their way back from the host.
  struct InFlight {
    // The queue whose works free them, or let Reclaim free them, once the host
    // has answered. Null if no page is in flight.
    Workqueue* queue = nullptr;
    // How often pages have come back so far.
    uint64_t returns = 0;
  };

  virtual ~Reclaimer() = default;

  // Frees about `wanted` pages on vCPU `cpu`; returns the number of pages
  // freed, 0 if there are none to reclaim. Called by an allocation that found
  // no memory, on its thread and outside the allocator's locks. Must not
  // allocate with may_reclaim, nor add or remove a reclaimer.
  virtual PageCount Reclaim(int cpu, PageCount wanted) = 0;

  // An allocation that found no memory waits while pages are in flight, and
  // tries again after each return. A page is in flight until it is free. Called
  // outside the allocator's locks, as Reclaim.
  virtual InFlight in_flight() const { return {}; }
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_RECLAIMER_H_
