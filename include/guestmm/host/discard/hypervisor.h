#ifndef GUESTMM_HOST_DISCARD_HYPERVISOR_H_
#define GUESTMM_HOST_DISCARD_HYPERVISOR_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// Counts of what a hypervisor has done so far.
struct DiscardCounters {
  uint64_t calls = 0;  // system calls made
  uint64_t bytes = 0;  // discarded, whether resident or not
  // Ranges that the host refused, adjacent ones joined.
  uint64_t failures = 0;
  // Discards that had no effect because they were inhibited, and their bytes.
  uint64_t inhibited_discards = 0;
  uint64_t inhibited_bytes = 0;
};

// The host's interface for taking guest memory back.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  // Returns the memory behind `ranges` to the host. Reading it then yields
  // zeroes (or the old contents, if the hypervisor discards nothing, always or
  // for now). Tries all ranges even if one fails, and returns the first error.
  // Thread-safe. REQUIRES: each range lies within one region of guest RAM and
  // consists of whole granules (GuestRam::discard_granule), and its contents
  // are not needed (docs/invariants.md, S1).
  virtual absl::Status Discard(std::span<const GpaRange> ranges) = 0;

  virtual DiscardCounters counters() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_HYPERVISOR_H_
