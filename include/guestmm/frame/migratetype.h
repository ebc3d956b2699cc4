#ifndef GUESTMM_FRAME_MIGRATETYPE_H_
#define GUESTMM_FRAME_MIGRATETYPE_H_

#include <cstdint>
#include <string_view>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The mobility of the pages of a pageblock or of a request. Grouping pages by
// mobility keeps large blocks recoverable (enum migratetype of a kernel without
// CONFIG_CMA).
enum class MigrateType : uint8_t {
  kUnmovable,
  kMovable,
  kReclaimable,
  // Reserved for atomic requests. Unused so far.
  kHighAtomic,
  // Must not be allocated: the memory is being offlined.
  kIsolate,
};
inline constexpr int kMigrateTypes = 5;
// The number of types, from the first, that requests and per-CPU lists may have
// (MIGRATE_PCPTYPES).
inline constexpr int kRequestTypes = 3;

// The name in /proc/pagetypeinfo: "Unmovable", "Movable", …
std::string_view Name(MigrateType type);

}  // namespace guestmm

#endif  // GUESTMM_FRAME_MIGRATETYPE_H_
