#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_TIME_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_TIME_H_

#include <memory>

#include "guestmm/base/clock.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/machine/real/guest.h"

namespace guestmm {

// The time that the guests of a row live in. One vCPU at a time runs a
// workload, step by step.
//
//   time.Place(guest_options);           // then create the guest
//   time.BeginSteps();
//   while (auto quiet = workload.Step(vcpu)) time.Pass(*quiet);
class DensityTime : public Clock {
 public:
  // Sets the options that make a guest live in this time. `guest` must be used
  // before this is destroyed, and so must the guest.
  virtual void Place(GuestOptions& guest) = 0;
  // The vCPU that runs next begins its first step now.
  virtual void BeginSteps() = 0;
  // Passes the time that the vCPU's last step took, and `quiet` after it.
  virtual void Pass(Nanoseconds quiet) = 0;
};

// Passes with the machine's clock: steps take what they take.
class RealDensityTime final : public DensityTime {
 public:
  Nanoseconds Now() const override { return timer_.Now() - start_; }
  void Place(GuestOptions&) override {}
  void BeginSteps() override {}
  void Pass(Nanoseconds quiet) override;

 private:
  ThreadWorkqueue timer_;
  const Nanoseconds start_ = timer_.Now();
};

// Virtual time, charged by a cost model (density.h).
//
// A report is handled at one instant, at the end of the time that it takes. The
// vCPU does not wait for it: its steps have a time of their own, which lags
// behind Now() while a report is charged, and catches up before any later
// event runs.
//
//   events   |report......................|done, next report...
//   vCPU     |step|step|step|step|step|step|step ...
class VirtualDensityTime final : public DensityTime {
 public:
  VirtualDensityTime(uint64_t seed, const CostModel& costs)
      : costs_(costs), time_(seed) {}

  Nanoseconds Now() const override { return time_.Now(); }
  void Place(GuestOptions& guest) override;
  void BeginSteps() override;
  void Pass(Nanoseconds quiet) override;

 private:
  class ChargingBacking;
  class ChargingHypervisor;

  const CostModel costs_;
  VirtualTime time_;
  // The time at which the vCPU begins its next step, but for what is charged to
  // the one it is in.
  Nanoseconds vcpu_{0};
  Nanoseconds step_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_TIME_H_
