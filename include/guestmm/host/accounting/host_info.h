#ifndef GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_
#define GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_

#include <cstdint>
#include <string>

#include "guestmm/base/units.h"

namespace guestmm {

// The machine on which an experiment ran.
struct HostInfo {
  uint64_t page_size = 0;  // bytes
  std::string kernel;      // "Linux 6.1.0-18-amd64"
  std::string thp;         // "always", "madvise", "never"; "unknown"
  uint64_t memory_bytes = 0;
};

HostInfo ReadHostInfo();

// Memory that can be allocated without swapping, in bytes: MemAvailable, or the
// rest of the control group's limit if that is less. 0 if the kernel exports
// neither.
uint64_t AvailableMemory();

// The memory that an experiment on real guest RAM leaves available besides it:
// metadata, the program, and what guests touch between two measurements.
inline constexpr uint64_t kMachineReserve = 256 * kMiB;

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_
