#ifndef GUESTMM_SRC_HOST_ACCOUNTING_AVAILABLE_MEMORY_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_AVAILABLE_MEMORY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace guestmm {

// A line of proc/meminfo below `root`, such as "MemTotal:", in bytes. The
// errors are AvailableMemory's.
absl::StatusOr<uint64_t> Meminfo(const std::string& root, std::string_view key);

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_AVAILABLE_MEMORY_H_
