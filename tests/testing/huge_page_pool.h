#ifndef GUESTMM_TESTS_TESTING_HUGE_PAGE_POOL_H_
#define GUESTMM_TESTS_TESTING_HUGE_PAGE_POOL_H_

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace guestmm {

// Ensures that the host's pool has free huge pages of 2 MiB, for hugetlb
// memfds. The destructor restores the size of the pool. There is one at a time
// on the machine; the next one waits.
class HugePagePool {
 public:
  // Enlarges the pool until `pages` huge pages are free. Unavailable if there
  // is no such pool, no permission to enlarge it, or not enough contiguous
  // memory: a reason for GTEST_SKIP.
  static absl::StatusOr<std::unique_ptr<HugePagePool>> Reserve(uint64_t pages) {
    std::unique_ptr<HugePagePool> pool(new HugePagePool);
    if (pool->lock_fd_ < 0) {
      return absl::UnavailableError(absl::StrCat("no ", Path("nr_hugepages")));
    }
    const uint64_t free = pool->Available();
    if (free >= pages) return pool;
    const uint64_t wanted = pool->before_ + pages - free;
    if (!Write(wanted)) {
      return absl::UnavailableError(
          absl::StrCat(Path("nr_hugepages"), " is ", pool->before_,
                       ", and this may not write ", wanted, " to it"));
    }
    pool->changed_ = true;
    if (const uint64_t got = pool->Available(); got < pages) {
      return absl::UnavailableError(absl::StrCat(
          "the host has ", got, " huge pages of 2 MiB to give, not ", pages));
    }
    return pool;
  }

  ~HugePagePool() {
    if (changed_) Write(before_);
    if (lock_fd_ >= 0) close(lock_fd_);
  }
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;

  // Huge pages that are neither used nor reserved.
  uint64_t Available() const {
    return Read("free_hugepages") - Read("resv_hugepages");
  }

 private:
  HugePagePool() : lock_fd_(open(Path("nr_hugepages").c_str(), O_RDONLY)) {
    if (lock_fd_ < 0) return;
    flock(lock_fd_, LOCK_EX);
    before_ = Read("nr_hugepages");
  }

  static std::string Path(const char* file) {
    return absl::StrCat("/sys/kernel/mm/hugepages/hugepages-2048kB/", file);
  }
  static uint64_t Read(const char* file) {
    uint64_t value = 0;
    std::ifstream(Path(file)) >> value;
    return value;
  }
  static bool Write(uint64_t pages) {
    std::ofstream file(Path("nr_hugepages"));
    file << pages << std::flush;
    return file.good();
  }

  // A file lock, held during the object's lifetime.
  const int lock_fd_;
  uint64_t before_ = 0;
  bool changed_ = false;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_HUGE_PAGE_POOL_H_
