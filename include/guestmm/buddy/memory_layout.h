#ifndef GUESTMM_BUDDY_MEMORY_LAYOUT_H_
#define GUESTMM_BUDDY_MEMORY_LAYOUT_H_

#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// Memory of one zone: part of a MemoryRange.
struct ZoneRange {
  ZoneType type = ZoneType::kNormal;
  MemoryRange memory;
};

// Splits memory, ascending, at x86-64's zone boundaries (16 MiB, 4 GiB) and at
// each node's start of ZONE_MOVABLE, which is a multiple of `alignment`. All
// pages but `movable` are the kernel's: they are spread evenly over the nodes,
// on each from the lowest address up, and only memory of the highest zone can
// be movable (Linux 5.3, movablecore=, find_zone_movable_pfns_for_nodes). As in
// the kernel, a `movable` of all memory or more means none.
std::vector<ZoneRange> LayOutZones(const MemoryMap& memory, PageCount movable,
                                   Order alignment);

// The zone of `pfn` by its address; never kMovable.
ZoneType ZoneTypeOf(Pfn pfn);

// One past the last page of the zone of `type`, by address.
Pfn EndOfZoneType(ZoneType type);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_MEMORY_LAYOUT_H_
