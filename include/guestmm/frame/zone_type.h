#ifndef GUESTMM_FRAME_ZONE_TYPE_H_
#define GUESTMM_FRAME_ZONE_TYPE_H_

#include <cstdint>
#include <string_view>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The zones of a node: by the addresses that devices can reach, and last a zone
// of movable pages only (enum zone_type on x86-64).
enum class ZoneType : uint8_t {
  kDma,      // below 16 MiB
  kDma32,    // below 4 GiB
  kNormal,   // from 4 GiB
  kMovable,  // movable pages only, so that it can be offlined
};
inline constexpr int kZoneTypes = 4;

// The kernel's name: "DMA", "DMA32", "Normal" or "Movable".
std::string_view Name(ZoneType type);

}  // namespace guestmm

#endif  // GUESTMM_FRAME_ZONE_TYPE_H_
