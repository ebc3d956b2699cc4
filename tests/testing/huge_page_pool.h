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

// Huge pages of 2 MiB in the host's pool, for hugetlb memfds, as long as this
// lives: then the pool has its size from before again. One at a time on the
// whole machine: the next one waits.
class HugePagePool {
 public:
  // Sees to it that `pages` of them are there and no one's. Unavailable says
  // why they are not, for GTEST_SKIP: no such pool, no right to enlarge it, not
  // enough memory in one piece.
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

  // Those that are neither used nor reserved.
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

  // Held for as long as this lives.
  const int lock_fd_;
  uint64_t before_ = 0;
  bool changed_ = false;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_HUGE_PAGE_POOL_H_
