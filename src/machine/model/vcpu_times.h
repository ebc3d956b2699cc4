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

// Where the time of vCPUs goes, in a guest in virtual time. A vCPU's step runs
// at one instant; what it costs is added up here, and the vCPU's next step is
// that much later.
//
//   times.BeginStep(0);
//   times.Charge(0, CostKind::kBase, 150);
//   clock.RunFor(times.EndStep() + quiet);
class VcpuTimes {
 public:
  // `clock` must outlive this.
  VcpuTimes(const Clock& clock, int vcpus)
      : clock_(clock), vcpus_(static_cast<size_t>(vcpus)) {}

  // The step takes what is charged until it ends, and what was charged to the
  // vCPU since its last one.
  void BeginStep(int vcpu);
  Nanoseconds EndStep(int vcpu);

  // The vCPU, in its step, spends `ns`.
  void Charge(int vcpu, CostKind kind, uint64_t ns) {
    at(vcpu).step += ns;
    spent_[static_cast<size_t>(kind)] += ns;
  }
  // The time as the vCPU in its step has it.
  Nanoseconds Now(int vcpu) const {
    return clock_.Now() + Nanoseconds(vcpus_[static_cast<size_t>(vcpu)].step);
  }

  // Takes `ns` from a vCPU that is running, between its steps, so that it is
  // later with the next one; a vCPU that idles has the time to spare.
  void Delay(int vcpu, CostKind kind, uint64_t ns);
  // From all that are running.
  void DelayRunning(CostKind kind, uint64_t ns);
  // From one: an idle one if there is one, else each in turn. As a scheduler
  // places a kernel thread.
  void DelayAnyone(CostKind kind, uint64_t ns);

  // Whether the vCPU is still at its last step.
  bool running(int vcpu) const {
    return vcpus_[static_cast<size_t>(vcpu)].busy_until > clock_.Now();
  }

  // What all vCPUs spent so far.
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
