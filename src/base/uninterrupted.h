#ifndef GUESTMM_SRC_BASE_UNINTERRUPTED_H_
#define GUESTMM_SRC_BASE_UNINTERRUPTED_H_

#include <cerrno>

namespace guestmm {

// Makes a system call, which returns -1 and sets errno on an error, again until
// no signal interrupts it. Not for close(), which has closed nevertheless.
template <typename Call>
auto Uninterrupted(Call call) {
  while (true) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_BASE_UNINTERRUPTED_H_
