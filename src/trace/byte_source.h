#ifndef GUESTMM_SRC_TRACE_BYTE_SOURCE_H_
#define GUESTMM_SRC_TRACE_BYTE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace guestmm::trace {

// A sequential source of bytes.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Reads up to `size` bytes, but at least 1; 0 at the end. An error names the
  // file, comes after all good bytes, and is returned by every later call.
  // REQUIRES: size > 0.
  virtual absl::StatusOr<size_t> Read(char* to, size_t size) = 0;
};

// Opens a file, which is decompressed if it begins like gzip or zstd data.
// NotFound or Unavailable if it cannot be read.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(const std::string& path);

// The same for bytes in memory, which errors call `name`.
absl::StatusOr<std::unique_ptr<ByteSource>> BytesOf(std::string bytes,
                                                    const std::string& name);

// The bytes of a file as they are, from `begin` up to `end` or its end.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenRange(const std::string& path,
                                                      uint64_t begin,
                                                      uint64_t end);
// False for a file that is compressed or has bytes of zero at its start, and
// for one that cannot be read.
bool IsPlainText(const std::string& path);

// Reads until `to` is full or the bytes end, and returns the number of bytes
// read. Returns an error only if no byte was read before it.
absl::StatusOr<size_t> ReadFully(ByteSource& source, char* to, size_t size);

// `source` with `bytes` put back in front of it, e.g. those read to detect its
// format.
std::unique_ptr<ByteSource> PutBack(std::string bytes,
                                    std::unique_ptr<ByteSource> source);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_BYTE_SOURCE_H_
