#ifndef GUESTMM_BUDDY_WATERMARKS_H_
#define GUESTMM_BUDDY_WATERMARKS_H_

#include <array>
#include <cstdint>

#include "guestmm/base/units.h"
#include "guestmm/frame/zone_type.h"

namespace guestmm {

// Free pages below which a zone is: in need of reclaim (low), closed to
// ordinary allocations (min); and at ease again (high).
struct Watermarks {
  PageCount min;
  PageCount low;
  PageCount high;

  bool operator==(const Watermarks&) const = default;
};

// What a zone keeps back from requests that could use higher zones too, by the
// highest that they may use (lowmem_reserve; "protection" in /proc/zoneinfo).
using LowmemReserve = std::array<PageCount, kZoneTypes>;

// min_free_kbytes that Linux chooses for a machine with `managed` pages below
// ZONE_MOVABLE: 4 * sqrt(KiB), between 128 and 65,536 (Linux 5.3,
// init_per_zone_wmark_min).
uint64_t DefaultMinFreeKbytes(PageCount managed);

// The watermarks of a zone with `zone_managed` of the machine's `managed` pages
// (Linux 5.3, __setup_per_zone_wmarks, watermark_scale_factor 10).
// REQUIRES: managed > 0.
Watermarks ComputeWatermarks(uint64_t min_free_kbytes, PageCount zone_managed,
                             PageCount managed);

// What a node's zone of `type` keeps back: from requests up to a higher zone, a
// share of all pages between (Linux 5.3, setup_per_zone_lowmem_reserve: 1/256
// for DMA and DMA32, 1/32 for Normal). `managed`: the node's zones by type.
LowmemReserve ComputeLowmemReserve(
    ZoneType type, const std::array<PageCount, kZoneTypes>& managed);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_WATERMARKS_H_
