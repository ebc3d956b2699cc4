#ifndef GUESTMM_HOST_ACCOUNTING_HOLD_TIMES_H_
#define GUESTMM_HOST_ACCOUNTING_HOLD_TIMES_H_

#include <algorithm>
#include <cstdint>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The times for which locks were held, in nanoseconds.
struct HoldTimes {
  uint64_t count = 0;
  uint64_t sum = 0;
  uint64_t max = 0;

  void Add(uint64_t ns) {
    ++count;
    sum += ns;
    max = std::max(max, ns);
  }
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_HOLD_TIMES_H_
