#include "guestmm/base/lock.h"

#include "src/base/spin_wait.h"

namespace guestmm {

void SpinLock::LockSlow() {
  do {
    SpinWait wait;
    while (held_.load(std::memory_order_relaxed)) wait.Once();
  } while (held_.exchange(true, std::memory_order_acquire));
}

}  // namespace guestmm
