#ifndef GUESTMM_HOST_ACCOUNTING_DISCARD_LOG_H_
#define GUESTMM_HOST_ACCOUNTING_DISCARD_LOG_H_

#include <cstdint>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The total that the host has discarded, in bytes, right after a discard.
struct DiscardedUntil {
  Nanoseconds when;
  uint64_t bytes;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_DISCARD_LOG_H_
