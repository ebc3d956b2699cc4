#include "guestmm/workload/page_fault1_workload.h"

#include <algorithm>
#include <chrono>

namespace guestmm {
namespace {

constexpr uint64_t kPagesAtATime = 64;
// The pause if not even one page can be allocated: time must advance.
constexpr std::chrono::milliseconds kOutOfMemoryPause(1);

}  // namespace

PageFault1Workload::PageFault1Workload(const PageFault1Options& options)
    : options_(options),
      blocks_per_step_(std::max<uint64_t>(
          1, kPagesAtATime / options.order.pages().value())) {}

std::optional<Nanoseconds> PageFault1Workload::Step(Vcpu& vcpu) {
  for (size_t i = 0; i < blocks_per_step_; ++i) {
    if (unmapping_) {
      blocks_.FreeOldest(vcpu);
      if (!blocks_.empty()) continue;
      unmapping_ = false;
      break;
    }
    const bool taken = blocks_.Take(vcpu, options_.order);
    if (taken && blocks_.bytes() < options_.bytes) continue;
    if (vcpu.blocked()) break;
    if (blocks_.empty()) return kOutOfMemoryPause;
    unmapping_ = true;
    break;
  }
  return Nanoseconds(0);
}

}  // namespace guestmm
