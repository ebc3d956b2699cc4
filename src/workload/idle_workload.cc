#include "guestmm/workload/idle_workload.h"

#include <chrono>

#include "guestmm/frame/gfp.h"

namespace guestmm {

std::optional<Nanoseconds> IdleWorkload::Step(Vcpu& vcpu) {
  constexpr int kSmallBlocks = 16;
  constexpr uint64_t kSmallOrders = 4;
  constexpr std::chrono::milliseconds kQuiet(100);

  for (int i = 0; i < kSmallBlocks && !vcpu.blocked(); ++i) {
    blocks_.Take(vcpu, Order(static_cast<int>(random_.Below(kSmallOrders))),
                 kGfpKernel);
  }
  for (const Gfp gfp : {kGfpUser, kGfpDma32}) {
    if (!vcpu.blocked()) blocks_.Take(vcpu, kPageblockOrder, gfp);
  }
  while (!blocks_.empty()) blocks_.FreeOldest(vcpu);
  return kQuiet;
}

}  // namespace guestmm
