#ifndef GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_
#define GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// The machine on which an experiment ran.
struct HostInfo {
  uint64_t page_size = 0;  // bytes
  std::string kernel;      // "Linux 6.1.0-18-amd64"
  std::string thp;         // "always", "madvise", "never"; "unknown"
  std::string cpu;         // "AMD EPYC 7B13"; "unknown"
  // Unset: unknown.
  std::optional<uint64_t> memory_bytes;
};

HostInfo ReadHostInfo();

// Memory that can be allocated without swapping, in bytes: MemAvailable, or the
// least that is left under a limit of this process's control groups, of version
// 1 and 2, up to the root. NotFound if the kernel does not say, as without
// /proc; Unavailable if a file cannot be read, as without file descriptors.
// `root`: the folder that proc/ and sys/ are in.
absl::StatusOr<uint64_t> AvailableMemory(const std::string& root = "/");

// What an experiment may take of `available`, AvailableMemory's answer: all
// there is if that is unknown.
absl::StatusOr<uint64_t> AllowedMemory(
    const absl::StatusOr<uint64_t>& available);

// OptionError for a host that real guest RAM cannot be given: a granule other
// than Order(0), for which huge pages are forbidden, and kPageblockOrder, for
// which they are asked for; and a khugepaged other than the machine's own.
absl::Status CheckRealHost(Order granule, bool khugepaged);

// OptionError for a khugepaged without huge pages, of which the host has none
// if `granule` is smaller: it would have no effect.
absl::Status CheckKhugepaged(Order granule, bool khugepaged);

// The memory that an experiment on real guest RAM leaves available besides it:
// metadata, the program, and what guests touch between two measurements.
inline constexpr uint64_t kMachineReserve = 256 * kMiB;

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_HOST_INFO_H_
