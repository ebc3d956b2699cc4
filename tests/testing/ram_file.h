#ifndef GUESTMM_TESTS_TESTING_RAM_FILE_H_
#define GUESTMM_TESTS_TESTING_RAM_FILE_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guestmm/base/check.h"

namespace guestmm {

// A file with the contents of guest RAM, such as a snapshot. Removed by the
// destructor.
class RamFile {
 public:
  // Each byte is `value`.
  RamFile(uint64_t bytes, std::byte value)
      : fd_(memfd_create("ram-file", MFD_CLOEXEC)) {
    const std::vector<std::byte> piece(64 * 1024, value);
    for (uint64_t at = 0; at < bytes; at += piece.size()) {
      Write(at, piece.data(), std::min<uint64_t>(piece.size(), bytes - at));
    }
  }
  ~RamFile() { close(fd_); }
  RamFile(const RamFile&) = delete;
  RamFile& operator=(const RamFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

  void Write(uint64_t at, const std::byte* from, uint64_t bytes) {
    GUESTMM_CHECK(pwrite(fd_, from, bytes, static_cast<off_t>(at)) ==
                  static_cast<ssize_t>(bytes))
        << "no memory for a file of guest RAM";
  }
  std::byte Read(uint64_t at) const {
    std::byte value{};
    GUESTMM_CHECK(pread(fd_, &value, 1, static_cast<off_t>(at)) == 1)
        << "no byte " << at;
    return value;
  }

 private:
  const int fd_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_RAM_FILE_H_
