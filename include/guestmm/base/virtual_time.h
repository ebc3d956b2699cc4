#ifndef GUESTMM_BASE_VIRTUAL_TIME_H_
#define GUESTMM_BASE_VIRTUAL_TIME_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/timeline.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

// A clock and a workqueue on one thread, in simulated time. Works run only
// inside RunFor, RunUntilIdle and WaitUntil, and time moves only from one event
// to the next. The same seed gives the same run.
//
// Works due at the same instant run in an order derived from the seed, so that
// other seeds try other interleavings. The order of two works depends on them
// alone: the tie of a work's n-th queueing is a hash of the seed, the work's
// number and n. Works are numbered when they are first queued. So more events
// of one work, or a work that is new from now on, leave the order of the others
// as it was.
//
// Used by one thread only.
class VirtualTime final : public Workqueue {
 public:
  explicit VirtualTime(uint64_t seed) : seed_(seed) {}

  Nanoseconds Now() const override { return now_; }

  bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) override;
  void CancelSync(Work& work) override;
  bool MayWait() const override { return !in_work_; }
  bool WaitUntil(absl::FunctionRef<bool()> condition,
                 Nanoseconds timeout = kForever) override;

  // Makes `work` due at the first instant at which `condition` holds; that is
  // looked at immediately, when time starts to run, and after each work. False,
  // with no effect, if it is due or waits already. CancelSync ends the waiting.
  // REQUIRES: `condition` does not use this.
  bool QueueWhen(Work& work, std::function<bool()> condition);

  // Runs everything that falls due within `duration`, and advances the time by
  // that much. REQUIRES: MayWait() (CHECKed).
  void RunFor(Nanoseconds duration) {
    const bool is_quiet =
        waiting_.empty() && !in_work_ &&
        (timeline_.empty() || timeline_.next() > now_ + duration);
    if (!is_quiet) {
      WaitUntil([] { return false; }, duration);
      return;
    }
    ++changes_;
    now_ += std::max(duration, Nanoseconds(0));
  }
  // Runs until nothing is due but deferrable works that have run since the last
  // other work: those would only come again. REQUIRES: MayWait() (CHECKed).
  void RunUntilIdle();
  // Advances time for the work that runs now; works that fall due meanwhile run
  // late.
  void Advance(Nanoseconds duration) { now_ += duration; }

 private:
  struct Waiting {
    Work* work;
    std::function<bool()> condition;
  };

  bool IsIdle() const;
  void RunFirst();
  // Queues the works whose conditions hold.
  void QueueReady();

  const uint64_t seed_;
  Nanoseconds now_{0};
  // The number of the work numbered last.
  uint64_t sources_ = 0;
  bool in_work_ = false;
  // Grows with everything that may give a deferrable work something to do: runs
  // of other works, and what the caller did before time started to run.
  uint64_t changes_ = 0;
  Timeline timeline_;
  // In the order of QueueWhen.
  std::vector<Waiting> waiting_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_VIRTUAL_TIME_H_
