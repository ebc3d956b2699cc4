#ifndef GUESTMM_BASE_VIRTUAL_TIME_H_
#define GUESTMM_BASE_VIRTUAL_TIME_H_

#include <cstdint>

#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/timeline.h"
#include "guestmm/base/workqueue.h"

namespace guestmm {

// A clock and a workqueue on one thread, in simulated time: nothing runs but
// inside RunFor, RunUntilIdle and WaitUntil, and time moves only from one event
// to the next. Works due at the same instant run in an order drawn from the
// seed, so that other seeds try other interleavings; the same seed gives the
// same run. Used by one thread only.
class VirtualTime final : public Workqueue {
 public:
  explicit VirtualTime(uint64_t seed) : random_(seed) {}

  Nanoseconds Now() const override { return now_; }

  bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) override;
  void CancelSync(Work& work) override;
  // May be called from inside a work: the other events run meanwhile.
  bool WaitUntil(absl::FunctionRef<bool()> condition,
                 Nanoseconds timeout = kForever) override;

  // Runs everything that falls due within `duration`; then it is that much
  // later.
  void RunFor(Nanoseconds duration);
  // Runs until nothing is due.
  void RunUntilIdle();
  // Advances time for the work that runs now; works that fall due meanwhile run
  // late.
  void Advance(Nanoseconds duration) { now_ += duration; }

 private:
  void RunFirst();

  Nanoseconds now_{0};
  Random random_;
  Timeline timeline_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_VIRTUAL_TIME_H_
