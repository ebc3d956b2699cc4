#ifndef GUESTMM_SRC_TRACE_TRACE_LIMITS_H_
#define GUESTMM_SRC_TRACE_TRACE_LIMITS_H_

#include <cstdint>

#include "guestmm/base/units.h"

namespace guestmm::trace {

// Upper bounds of an event's fields; that of its order is kMaxOrder.
// A pfn of 52-bit physical addresses.
inline constexpr uint64_t kMaxPfn = (uint64_t{1} << 40) - 1;
inline constexpr uint64_t kMaxCpu = 0xffff;
inline constexpr uint64_t kMaxMigratetype = 0xff;

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_TRACE_LIMITS_H_
