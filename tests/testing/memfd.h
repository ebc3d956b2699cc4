#ifndef GUESTMM_TESTS_TESTING_MEMFD_H_
#define GUESTMM_TESTS_TESTING_MEMFD_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "guestmm/base/check.h"
#include "guestmm/base/unique_fd.h"

namespace guestmm {

// A memfd that can be guest RAM, unless `seals` or `flags` differ.
inline UniqueFd MakeMemfd(uint64_t bytes, int seals = F_SEAL_SHRINK,
                          unsigned flags = 0) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  GUESTMM_CHECK(fd.valid() &&
                ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  if (seals != 0) fcntl(fd.get(), F_ADD_SEALS, seals);
  return fd;
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_MEMFD_H_
