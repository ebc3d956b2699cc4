#ifndef GUESTMM_BUDDY_WATERMARKS_H_
#define GUESTMM_BUDDY_WATERMARKS_H_

#include <cstdint>

#include "guestmm/base/units.h"

namespace guestmm {

// Free pages below which a zone is: in need of reclaim (low), closed to
// ordinary allocations (min); and at ease again (high).
struct Watermarks {
  PageCount min;
  PageCount low;
  PageCount high;
};

// min_free_kbytes that Linux chooses for a machine with `managed` pages:
// 4 * sqrt(KiB), between 128 and 65,536 (Linux 5.3, init_per_zone_wmark_min).
uint64_t DefaultMinFreeKbytes(PageCount managed);

// The watermarks of a zone with `zone_managed` of the machine's `managed` pages
// (Linux 5.3, __setup_per_zone_wmarks, watermark_scale_factor 10).
// REQUIRES: managed > 0.
Watermarks ComputeWatermarks(uint64_t min_free_kbytes, PageCount zone_managed,
                             PageCount managed);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_WATERMARKS_H_
