#ifndef GUESTMM_FRAME_RECLAIMER_H_
#define GUESTMM_FRAME_RECLAIMER_H_

#include "guestmm/base/units.h"

namespace guestmm {

// Someone who holds memory that he can give up, such as a page cache.
class Reclaimer {
 public:
  virtual ~Reclaimer() = default;

  // Frees about `wanted` pages, on vCPU `cpu`; returns how many it freed, 0 if
  // it has none to give. Called by an allocation that found no memory, on its
  // thread and without the allocator's locks.
  // Must not allocate with may_reclaim, nor add or remove a reclaimer.
  virtual PageCount Reclaim(int cpu, PageCount wanted) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_RECLAIMER_H_
