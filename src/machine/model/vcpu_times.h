#ifndef GUESTMM_SRC_MACHINE_MODEL_VCPU_TIMES_H_
#define GUESTMM_SRC_MACHINE_MODEL_VCPU_TIMES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/clock.h"
#include "guestmm/machine/model/cost_kind.h"

namespace guestmm {

// Adds up what the steps of vCPUs cost in virtual time. A step runs at one
// instant; the vCPU's next step is later by what this one cost.
//
//   times.BeginStep(0);
//   times.Charge(0, CostKind::kBase, 150);
//   clock.RunFor(times.EndStep() + quiet);
class VcpuTimes {
 public:
  // `clock` must outlive this.
  VcpuTimes(const Clock& clock, int vcpus)
      : clock_(clock), vcpus_(static_cast<size_t>(vcpus)) {}

  // EndStep returns how long the step takes: everything charged to the vCPU
  // since the end of its last step.
  void BeginStep(int vcpu);
  Nanoseconds EndStep(int vcpu);

  // Charges `ns` to the vCPU. REQUIRES: it is in a step.
  void Charge(int vcpu, CostKind kind, uint64_t ns) {
    at(vcpu).step += ns;
    spent_[static_cast<size_t>(kind)] += ns;
  }
  // The vCPU's own time in its step: the clock and what was charged so far.
  Nanoseconds Now(int vcpu) const {
    return clock_.Now() + Nanoseconds(vcpus_[static_cast<size_t>(vcpu)].step);
  }

  // Counts the time since the vCPU's last step ended as `kind`, without a
  // delay: it has passed.
  void CountSinceStep(int vcpu, CostKind kind);

  // Charges `ns` to a vCPU between its steps, so that its next one is later.
  // Only if it is running; an idle vCPU has the time to spare.
  void Delay(int vcpu, CostKind kind, uint64_t ns);
  // Delay for every vCPU.
  void DelayRunning(CostKind kind, uint64_t ns);
  // Delay for one vCPU: an idle one if there is one, else each in turn, as a
  // scheduler places a kernel thread.
  void DelayAnyone(CostKind kind, uint64_t ns);

  // True if the vCPU is still busy with its last step.
  bool running(int vcpu) const {
    return vcpus_[static_cast<size_t>(vcpu)].busy_until > clock_.Now();
  }

  // Charged to all vCPUs so far, in ns.
  uint64_t spent(CostKind kind) const {
    return spent_[static_cast<size_t>(kind)];
  }
  void ForgetSpent() { spent_ = {}; }

 private:
  struct State {
    uint64_t step = 0;  // charged in this step
    uint64_t owed = 0;  // charged since
    Nanoseconds busy_until{0};
  };
  State& at(int vcpu) { return vcpus_[static_cast<size_t>(vcpu)]; }

  const Clock& clock_;
  std::vector<State> vcpus_;
  std::array<uint64_t, kCostKinds> spent_{};
  size_t next_in_turn_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_VCPU_TIMES_H_
