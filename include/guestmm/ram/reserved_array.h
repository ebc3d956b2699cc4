#ifndef GUESTMM_RAM_RESERVED_ARRAY_H_
#define GUESTMM_RAM_RESERVED_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Zeroed memory of a fixed size. Takes address space when created, and host
// memory only where it is written, one host page at a time: a sparse array
// costs nothing for its holes.
class ReservedArray {
 public:
  // ResourceExhausted if the address space cannot be reserved. REQUIRES: bytes
  // > 0.
  static absl::StatusOr<ReservedArray> Create(size_t bytes);
  ~ReservedArray();
  // The moved-from array has no memory.
  ReservedArray(ReservedArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  ReservedArray& operator=(ReservedArray&&) = delete;

  // Aligned to a host page.
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Returns the host pages that lie wholly in [offset, offset + bytes) to the
  // host; they read as zeroes afterwards. REQUIRES: offset + bytes <= bytes()
  // (CHECKed).
  void Discard(size_t offset, size_t bytes);

  // Bytes that the host backs, from /proc/self/smaps. Unavailable if that
  // cannot be read.
  absl::StatusOr<uint64_t> ResidentBytes() const;

 private:
  ReservedArray(void* data, size_t bytes) : data_(data), bytes_(bytes) {}

  void* data_;
  size_t bytes_;
};

}  // namespace guestmm

#endif  // GUESTMM_RAM_RESERVED_ARRAY_H_
