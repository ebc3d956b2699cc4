#ifndef GUESTMM_SRC_WORKLOAD_DRAWS_H_
#define GUESTMM_SRC_WORKLOAD_DRAWS_H_

// Random draws and shares used by several workloads.

#include <cstdint>

#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"

namespace guestmm {

// `share` of `amount`, rounded down.
inline uint64_t ShareOf(uint64_t amount, double share) {
  return static_cast<uint64_t>(static_cast<double>(amount) * share);
}

// Uniform in [0, 1).
inline double DrawShare(Random& random) {
  return static_cast<double>(random.Next() >> 11) * 0x1p-53;
}

// Uniform in [low, high]. REQUIRES: 0 <= low <= high.
inline Nanoseconds DrawTime(Random& random, Nanoseconds low, Nanoseconds high) {
  return Nanoseconds(random.Between(static_cast<uint64_t>(low.count()),
                                    static_cast<uint64_t>(high.count())));
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_WORKLOAD_DRAWS_H_
