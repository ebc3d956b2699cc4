#ifndef GUESTMM_SRC_TRACE_BYTE_SOURCE_H_
#define GUESTMM_SRC_TRACE_BYTE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace guestmm::trace {

// The bytes of a file, one after the other.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Reads up to `size` (at least 1) bytes; 0 at the end. An error names the
  // file and comes after all bytes that are good; it repeats.
  virtual absl::StatusOr<size_t> Read(char* to, size_t size) = 0;
};

// A file, decompressed if it begins as gzip or zstd data do. NotFound or
// Unavailable if it cannot be read.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(const std::string& path);

// The same of bytes in memory. Errors call them `name`.
absl::StatusOr<std::unique_ptr<ByteSource>> BytesOf(std::string bytes,
                                                    const std::string& name);

// Reads until `to` is full or the bytes end: how many that were. An error only
// if nothing was read before it.
absl::StatusOr<size_t> ReadFully(ByteSource& source, char* to, size_t size);

// `source`, with `bytes` before it: what was read of it to see what it is.
std::unique_ptr<ByteSource> PutBack(std::string bytes,
                                    std::unique_ptr<ByteSource> source);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_BYTE_SOURCE_H_
