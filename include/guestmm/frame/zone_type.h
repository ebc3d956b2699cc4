#ifndef GUESTMM_FRAME_ZONE_TYPE_H_
#define GUESTMM_FRAME_ZONE_TYPE_H_

#include <cstdint>
#include <string_view>

namespace guestmm {

// A node's zones, by the addresses that devices could reach, and last the one
// whose pages can all be moved (enum zone_type on x86-64).
enum class ZoneType : uint8_t {
  kDma,      // below 16 MiB
  kDma32,    // below 4 GiB
  kNormal,   // from 4 GiB
  kMovable,  // set aside for movable pages, so that it can go offline
};
inline constexpr int kZoneTypes = 4;

// "DMA", "DMA32", "Normal", "Movable": the kernel's names.
std::string_view Name(ZoneType type);

}  // namespace guestmm

#endif  // GUESTMM_FRAME_ZONE_TYPE_H_
