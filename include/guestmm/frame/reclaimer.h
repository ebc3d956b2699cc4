#ifndef GUESTMM_FRAME_RECLAIMER_H_
#define GUESTMM_FRAME_RECLAIMER_H_

#include "guestmm/base/units.h"

namespace guestmm {

// A holder of reclaimable pages, e.g. the page cache (a shrinker).
class Reclaimer {
 public:
  virtual ~Reclaimer() = default;

  // Frees about `wanted` pages on vCPU `cpu`; returns the number of pages
  // freed, 0 if there are none to reclaim. Called by an allocation that found
  // no memory, on its thread and outside the allocator's locks. Must not
  // allocate with may_reclaim, nor add or remove a reclaimer.
  virtual PageCount Reclaim(int cpu, PageCount wanted) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_RECLAIMER_H_
