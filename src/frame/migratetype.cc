#include "guestmm/frame/migratetype.h"

namespace guestmm {

std::string_view Name(MigrateType type) {
  switch (type) {
    case MigrateType::kUnmovable:
      return "Unmovable";
    case MigrateType::kMovable:
      return "Movable";
    case MigrateType::kReclaimable:
      return "Reclaimable";
    case MigrateType::kHighAtomic:
      return "HighAtomic";
    case MigrateType::kIsolate:
      return "Isolate";
  }
  return "unknown";
}

}  // namespace guestmm
