#ifndef GUESTMM_FRAME_NO_PFN_H_
#define GUESTMM_FRAME_NO_PFN_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// "None", for code on the allocation path. A std::optional that is returned
// from behind a call comes back in memory, written in two pieces and read in
// one, and the stall costs more than the rest of an allocation (gcc 12).
inline constexpr Pfn kNoPfn{~uint64_t{0}};

// None for kNoPfn. Written so that, inlined, it stays in registers: one object,
// returned by name.
inline std::optional<Pfn> ToOptional(Pfn pfn) {
  std::optional<Pfn> result(pfn);
  if (pfn == kNoPfn) result.reset();
  return result;
}

}  // namespace guestmm

#endif  // GUESTMM_FRAME_NO_PFN_H_
