#include "src/machine/model/vcpu_times.h"

#include <utility>

namespace guestmm {

void VcpuTimes::BeginStep(int vcpu) {
  State& state = at(vcpu);
  state.step = std::exchange(state.owed, 0);
}

Nanoseconds VcpuTimes::EndStep(int vcpu) {
  State& state = at(vcpu);
  const Nanoseconds took(std::exchange(state.step, 0));
  state.busy_until = clock_.Now() + took;
  return took;
}

void VcpuTimes::CountSinceStep(int vcpu, CostKind kind) {
  const Nanoseconds since = clock_.Now() - at(vcpu).busy_until;
  if (since > Nanoseconds(0)) {
    spent_[static_cast<size_t>(kind)] += static_cast<uint64_t>(since.count());
  }
}

void VcpuTimes::Delay(int vcpu, CostKind kind, uint64_t ns) {
  if (!running(vcpu)) return;
  at(vcpu).owed += ns;
  spent_[static_cast<size_t>(kind)] += ns;
}

void VcpuTimes::DelayRunning(CostKind kind, uint64_t ns) {
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    Delay(static_cast<int>(i), kind, ns);
  }
}

void VcpuTimes::DelayAnyone(CostKind kind, uint64_t ns) {
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    if (!running(static_cast<int>(i))) return;
  }
  Delay(static_cast<int>(next_in_turn_), kind, ns);
  next_in_turn_ = (next_in_turn_ + 1) % vcpus_.size();
}

}  // namespace guestmm
