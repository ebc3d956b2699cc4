#ifndef GUESTMM_FRAME_MIGRATETYPE_H_
#define GUESTMM_FRAME_MIGRATETYPE_H_

#include <cstdint>
#include <string_view>

namespace guestmm {

// What the pages of a pageblock, or of a request, can stand: pages that cannot
// be moved are kept together, so that the others leave large blocks behind
// (enum migratetype of a kernel without CONFIG_CMA).
enum class MigrateType : uint8_t {
  kUnmovable,
  kMovable,
  kReclaimable,
  // Reserved for atomic requests. Nothing is put there yet.
  kHighAtomic,
  // Not to be allocated: on its way offline.
  kIsolate,
};
inline constexpr int kMigrateTypes = 5;
// The first three, which requests have and per-CPU lists hold
// (MIGRATE_PCPTYPES).
inline constexpr int kRequestTypes = 3;

// "Unmovable", "Movable", …: as /proc/pagetypeinfo has them.
std::string_view Name(MigrateType type);

}  // namespace guestmm

#endif  // GUESTMM_FRAME_MIGRATETYPE_H_
