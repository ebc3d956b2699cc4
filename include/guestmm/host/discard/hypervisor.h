#ifndef GUESTMM_HOST_DISCARD_HYPERVISOR_H_
#define GUESTMM_HOST_DISCARD_HYPERVISOR_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "guestmm/base/units.h"

namespace guestmm {

// What a hypervisor did so far.
struct DiscardCounters {
  uint64_t calls = 0;     // system calls made
  uint64_t bytes = 0;     // in the ranges given back, resident or not
  uint64_t failures = 0;  // of ranges, neighbours as one, that it refused
  // Discards that had no effect since they were inhibited, and what they named.
  uint64_t inhibited_discards = 0;
  uint64_t inhibited_bytes = 0;
};

// The host side that can take guest memory back.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  // Gives the host the memory behind `ranges`; reading it then yields zeroes
  // (or, with a hypervisor that discards nothing at all or for now, what was
  // there). A range that fails does not keep the others from being tried: the
  // first error is returned. Safe from any thread.
  // REQUIRES: each range lies within one region of guest RAM, in whole granules
  // (GuestRam::discard_granule), and no one uses its contents
  // (docs/invariants.md, S1).
  virtual absl::Status Discard(std::span<const GpaRange> ranges) = 0;

  virtual DiscardCounters counters() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_HYPERVISOR_H_
