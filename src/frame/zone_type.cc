#include "guestmm/frame/zone_type.h"

namespace guestmm {

std::string_view Name(ZoneType type) {
  switch (type) {
    case ZoneType::kDma:
      return "DMA";
    case ZoneType::kDma32:
      return "DMA32";
    case ZoneType::kNormal:
      return "Normal";
    case ZoneType::kMovable:
      return "Movable";
  }
  return "unknown";
}

}  // namespace guestmm
