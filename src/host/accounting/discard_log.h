#ifndef GUESTMM_SRC_HOST_ACCOUNTING_DISCARD_LOG_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_DISCARD_LOG_H_

#include <cstdint>

#include "guestmm/base/clock.h"

namespace guestmm {

// What the host got back up to a moment, in bytes, right after a discard.
struct DiscardedUntil {
  Nanoseconds when;
  uint64_t bytes;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_DISCARD_LOG_H_
