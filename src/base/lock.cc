#include "guestmm/base/lock.h"

#include <sched.h>

namespace guestmm {

void SpinLock::LockSlow() {
  // Long enough for a holder on another processor to finish, short enough not
  // to burn the slice that a preempted holder waits for.
  constexpr int kSpinsBeforeYield = 128;
  do {
    int spins = 0;
    while (held_.load(std::memory_order_relaxed)) {
      if (++spins < kSpinsBeforeYield) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      } else {
        sched_yield();
      }
    }
  } while (held_.exchange(true, std::memory_order_acquire));
}

}  // namespace guestmm
