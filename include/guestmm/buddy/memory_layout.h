#ifndef GUESTMM_BUDDY_MEMORY_LAYOUT_H_
#define GUESTMM_BUDDY_MEMORY_LAYOUT_H_

#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/zone_type.h"

namespace guestmm {

// A part of a range that is in one zone.
struct ZoneRange {
  ZoneType type = ZoneType::kNormal;
  MemoryRange memory;
};

// Cuts memory, ascending, at the borders of x86-64's zones: 16 MiB, 4 GiB, and
// on each node where ZONE_MOVABLE begins. That is behind the share of the pages
// that the kernel keeps for itself, all but `movable`; it spreads them evenly
// over the nodes, each from its lowest address up, and only memory in the
// highest zone can be movable (Linux 5.3, movablecore=,
// find_zone_movable_pfns_for_nodes). The border is a multiple of `alignment`.
// As there, `movable` of all memory or more is taken for none.
std::vector<ZoneRange> LayOutZones(const MemoryMap& memory, PageCount movable,
                                   Order alignment);

// The zone that a page of address `pfn` has at boot, ZONE_MOVABLE apart.
ZoneType ZoneTypeOf(Pfn pfn);

// Where LayOutZones cuts: the first page behind the zone of `type`.
Pfn EndOfZoneType(ZoneType type);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_MEMORY_LAYOUT_H_
