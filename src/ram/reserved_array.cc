#include "guestmm/ram/reserved_array.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "src/base/uninterrupted.h"

namespace guestmm {
namespace {

size_t SystemPageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

absl::Status Error(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("reserving %d bytes: %s", bytes, std::strerror(errno)));
}

}  // namespace

absl::StatusOr<ReservedArray> ReservedArray::Create(size_t bytes) {
  GUESTMM_CHECK(bytes > 0);
  // The page behind the array stays inaccessible. Otherwise the kernel would
  // merge the array's mapping with its neighbour's, and /proc/self/smaps would
  // count both.
  const size_t reserved = bytes + SystemPageBytes();
  void* const data = mmap(nullptr, reserved, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return Error(bytes);
  if (mprotect(data, bytes, PROT_READ | PROT_WRITE) != 0) {
    const absl::Status error = Error(bytes);
    munmap(data, reserved);
    return error;
  }
  // A huge page would back 2 MiB where 4 KiB was written.
  Uninterrupted([&] { return madvise(data, bytes, MADV_NOHUGEPAGE); });
  return ReservedArray(data, bytes);
}

ReservedArray::~ReservedArray() {
  if (data_ != nullptr) munmap(data_, bytes_ + SystemPageBytes());
}

void ReservedArray::Discard(size_t offset, size_t bytes) {
  GUESTMM_CHECK(offset <= bytes_ && bytes <= bytes_ - offset)
      << "discard of " << bytes << " bytes at " << offset << " of " << bytes_;
  const size_t page = SystemPageBytes();
  const size_t start = (offset + page - 1) / page * page;
  const size_t end = (offset + bytes) / page * page;
  if (start >= end) return;
  const int result = Uninterrupted([&] {
    return madvise(static_cast<std::byte*>(data_) + start, end - start,
                   MADV_DONTNEED);
  });
  GUESTMM_CHECK(result == 0) << std::strerror(errno);
}

absl::StatusOr<uint64_t> ReservedArray::ResidentBytes() const {
  const auto from = reinterpret_cast<uintptr_t>(data_);
  std::ifstream smaps("/proc/self/smaps");
  uint64_t resident = 0;
  bool inside = false;
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    uintptr_t start = 0;
    uintptr_t end = 0;
    char dash = 0;
    if (words >> std::hex >> start >> dash >> end && dash == '-') {
      inside = start < from + bytes_ && from < end;
      found |= inside;
    } else if (inside && line.starts_with("Rss:")) {
      uint64_t kib = 0;
      std::istringstream(line.substr(4)) >> kib;
      resident += kib * kKiB;
    }
  }
  if (!found) {
    return absl::UnavailableError("/proc/self/smaps lacks the array's mapping");
  }
  return resident;
}

}  // namespace guestmm
