#ifndef GUESTMM_BASE_WORKQUEUE_H_
#define GUESTMM_BASE_WORKQUEUE_H_

// Deferred work, in the shape of the kernel's workqueues.
//
//   ThreadWorkqueue queue;
//   Work report([&] { ... });
//   queue.Queue(report);              // runs soon, on the queue's thread
//   queue.CancelSync(report);         // now it is neither due nor running
//
// A Work is due at most once: queueing it again before it starts does nothing;
// queueing it while it runs makes it run once more.

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "guestmm/base/clock.h"

namespace guestmm {

// One thing to do, any number of times. Belongs to the queue it is due on
// until it starts there. REQUIRES at destruction: neither due nor running.
class Work {
 public:
  explicit Work(std::function<void()> run) : run_(std::move(run)) {}
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

 private:
  friend class Timeline;

  std::function<void()> run_;
  // Guarded by the lock of the queue it is due on.
  bool due_ = false;
  Nanoseconds when_{0};
  uint64_t tie_ = 0;
};

// Runs Work one at a time, in the order in which it falls due by its own clock.
class Workqueue : public Clock {
 public:
  // "However long it takes", for WaitUntil.
  static constexpr Nanoseconds kForever = Nanoseconds::max();

  // Makes `work` due `delay` from now. False, with no effect, if it is due
  // already. Safe from any thread, and from inside any work.
  virtual bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) = 0;

  // Takes `work` off the queue and, where it is running on another thread,
  // waits for it to end.
  virtual void CancelSync(Work& work) = 0;

  // Lets work run until `condition` holds: true; or until `timeout` has passed,
  // or, in virtual time, until nothing is left to do that could change it:
  // false. `condition` is evaluated on the calling thread with no lock of the
  // queue held, first at once and then after each work that ran on this queue.
  // REQUIRES: not called from a work of a ThreadWorkqueue.
  virtual bool WaitUntil(absl::FunctionRef<bool()> condition,
                         Nanoseconds timeout = kForever) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_WORKQUEUE_H_
