#ifndef GUESTMM_SRC_BASE_SPIN_WAIT_H_
#define GUESTMM_SRC_BASE_SPIN_WAIT_H_

#include <sched.h>

namespace guestmm {

// Lets the other hardware thread of the core go first for a moment.
inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The pause between two reads of a value that another thread will change.
class SpinWait {
 public:
  void Once() {
    if (++spins_ < kSpinsBeforeYield) {
      SpinPause();
    } else {
      sched_yield();
    }
  }

 private:
  // Long enough for a holder on another processor to finish, short enough not
  // to burn the slice that a preempted holder waits for.
  static constexpr int kSpinsBeforeYield = 128;
  int spins_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_BASE_SPIN_WAIT_H_
