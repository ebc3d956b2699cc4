#ifndef GUESTMM_BUDDY_WATERMARKS_H_
#define GUESTMM_BUDDY_WATERMARKS_H_

#include <array>
#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// Watermarks of a zone, in free pages: below low it needs reclaim, which goes
// on until high; below min it serves only requests that may use reserves.
struct Watermarks {
  PageCount min;
  PageCount low;
  PageCount high;

  bool operator==(const Watermarks&) const = default;
};

// What a zone's per-CPU lists know of its free memory (6.12, ZONE_BELOW_HIGH
// and ZONE_RECLAIM_ACTIVE).
enum class ZonePressure : uint8_t {
  kNone,
  kBelowHigh,      // since an allocation found it below its high watermark
  kReclaimActive,  // pages are being reclaimed
};

// Pages that a zone reserves against requests that could also use higher zones,
// by the highest zone of the request (lowmem_reserve; "protection" in
// /proc/zoneinfo).
using LowmemReserve = std::array<PageCount, kZoneTypes>;

// The kernel's default min_free_kbytes for a machine with `managed` pages below
// ZONE_MOVABLE: 4 * sqrt(KiB), 128 to 65,536 (Linux 5.3,
// init_per_zone_wmark_min).
uint64_t DefaultMinFreeKbytes(PageCount managed);

// The min_free_kbytes that a kernel with transparent huge pages raises it to:
// eleven pageblocks for each of `zones`, those below ZONE_MOVABLE that have
// memory, but at most a twentieth of their `managed` pages (Linux 6.12,
// set_recommended_min_free_kbytes).
uint64_t HugePageMinFreeKbytes(int zones, PageCount managed);

// The watermarks of a zone that has `zone_managed` of the machine's `managed`
// pages (Linux 5.3, __setup_per_zone_wmarks, watermark_scale_factor 10).
// REQUIRES: managed > 0.
Watermarks ComputeWatermarks(uint64_t min_free_kbytes, PageCount zone_managed,
                             PageCount managed);

// The reserve of a node's zone of `type` against requests of each highest zone:
// a share of the managed pages of the zones above `type` up to that zone, 1/256
// for DMA and DMA32, 1/32 for Normal (Linux 5.3,
// setup_per_zone_lowmem_reserve). `managed`: pages of the node's zones, by
// type.
LowmemReserve ComputeLowmemReserve(
    ZoneType type, const std::array<PageCount, kZoneTypes>& managed);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_WATERMARKS_H_
