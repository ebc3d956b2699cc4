#ifndef GUESTMM_BASE_WORKQUEUE_H_
#define GUESTMM_BASE_WORKQUEUE_H_

// Deferred work, modelled on the kernel's workqueues.
//
//   ThreadWorkqueue queue;
//   Work report([&] { ... });
//   queue.Queue(report);              // runs soon, on the queue's thread
//   queue.CancelSync(report);         // now it is neither due nor running
//
// A Work is due at most once: queueing it again before it starts has no effect;
// queueing it while it runs makes it run once more.

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A function to be run, any number of times. From Queue until it starts it is
// owned by the queue. REQUIRES at destruction: neither due nor running.
class Work {
 public:
  // Deferrable is a work that comes again by itself, such as a poll: it does
  // not keep virtual time from being idle (INIT_DEFERRABLE_WORK).
  enum class Kind : bool { kNormal, kDeferrable };

  explicit Work(std::function<void()> run, Kind kind = Kind::kNormal)
      : run_(std::move(run)), kind_(kind) {}
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

 private:
  friend class Timeline;
  friend class VirtualTime;

  std::function<void()> run_;
  const Kind kind_;
  // Guarded by the lock of the queue on which it is due.
  bool due_ = false;
  Nanoseconds when_{0};
  uint64_t tie_ = 0;
  // For ties in virtual time: its number, 0 before it was first queued there,
  // and how often it was queued.
  uint64_t source_ = 0;
  uint64_t times_queued_ = 0;
  // VirtualTime::changes_ when it last ran.
  uint64_t ran_after_ = 0;
};

// Runs works one at a time, in the order in which they fall due by its clock.
class Workqueue : public Clock {
 public:
  // No timeout, for WaitUntil.
  static constexpr Nanoseconds kForever = Nanoseconds::max();

  // Makes `work` due `delay` from now. False, with no effect, if it is due
  // already. Thread-safe; may be called from inside any work.
  virtual bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) = 0;

  // Takes `work` off the queue. If it is running on another thread, waits for
  // it to end. For WaitUntil that counts as a run.
  virtual void CancelSync(Work& work) = 0;

  // True unless the caller is a work of this queue, which could only wait for
  // itself. A step that must wait there has to end and be queued again.
  virtual bool MayWait() const = 0;

  // Lets works run until `condition` holds: true; or until `timeout` has passed
  // or, without one in virtual time, until nothing is due any more that could
  // change it (VirtualTime::RunUntilIdle): false.
  // `condition` is evaluated on the calling thread with no lock of the queue
  // held: immediately, and after each work that ran on this queue.
  // REQUIRES: MayWait() (CHECKed).
  virtual bool WaitUntil(absl::FunctionRef<bool()> condition,
                         Nanoseconds timeout = kForever) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_WORKQUEUE_H_
