#ifndef GUESTMM_TESTS_TESTING_AWAIT_H_
#define GUESTMM_TESTS_TESTING_AWAIT_H_

#include <chrono>

#include "absl/functional/function_ref.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/thread_workqueue.h"

namespace guestmm {

// Polls until `condition` holds. For conditions set by another process or by a
// thread without a workqueue. False after a minute.
inline bool Await(absl::FunctionRef<bool()> condition) {
  ThreadWorkqueue timer;
  const MonotonicClock clock;
  while (!condition()) {
    if (clock.Now() > std::chrono::minutes(1)) return false;
    timer.WaitUntil([] { return false; }, std::chrono::microseconds(200));
  }
  return true;
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_AWAIT_H_
