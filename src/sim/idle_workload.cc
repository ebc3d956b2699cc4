#include "guestmm/sim/idle_workload.h"

#include <chrono>
#include <utility>
#include <vector>

namespace guestmm {

std::optional<Nanoseconds> IdleWorkload::Step(Vcpu& vcpu) {
  constexpr int kSmallBlocks = 16;
  constexpr uint64_t kSmallOrders = 4;
  constexpr std::chrono::milliseconds kQuiet(100);

  std::vector<std::pair<Pfn, Order>> blocks;
  const auto take = [&](Order order, Gfp gfp) {
    if (const std::optional<Pfn> pfn = vcpu.Allocate(order, gfp)) {
      vcpu.Touch(*pfn, order, /*stamp=*/0);
      touched_ += order.pages();
      blocks.emplace_back(*pfn, order);
    }
  };
  for (int i = 0; i < kSmallBlocks; ++i) {
    take(Order(static_cast<int>(random_.Below(kSmallOrders))), kGfpKernel);
  }
  take(kPageblockOrder, kGfpUser);
  take(kPageblockOrder, kGfpDma32);
  for (const auto& [pfn, order] : blocks) vcpu.Free(pfn, order);
  return kQuiet;
}

}  // namespace guestmm
