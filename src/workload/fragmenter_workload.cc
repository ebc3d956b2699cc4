#include "guestmm/workload/fragmenter_workload.h"

namespace guestmm {
namespace {

constexpr uint64_t kFilledAtATime = kMiB;

}  // namespace

FragmenterWorkload::FragmenterWorkload(const FragmenterOptions& options,
                                       uint64_t seed)
    : options_(options),
      random_(seed),
      kept_(seed),
      rest_(seed),
      idle_(random_.Next()) {}

std::optional<Nanoseconds> FragmenterWorkload::Step(Vcpu& vcpu) {
  switch (phase_) {
    case Phase::kFill:
      Fill(vcpu);
      break;
    case Phase::kFree:
      Free(vcpu);
      break;
    case Phase::kQuiet:
      return idle_.Step(vcpu);
  }
  return Nanoseconds(0);
}

uint64_t FragmenterWorkload::work() const {
  return (kept_.touched() + rest_.touched()).value() + idle_.work();
}

void FragmenterWorkload::Fill(Vcpu& vcpu) {
  const uint64_t step_end = allocated_bytes() + kFilledAtATime;
  while (allocated_bytes() < step_end) {
    if (allocated_bytes() >= options_.bytes || !TakeBlock(vcpu)) {
      if (!vcpu.blocked()) phase_ = Phase::kFree;
      return;
    }
  }
}

bool FragmenterWorkload::TakeBlock(Vcpu& vcpu) {
  const int most = options_.max_order.value();
  int order = static_cast<int>(random_.Below(static_cast<uint64_t>(most) + 1));
  // Kept pages are allocated from the same free memory as the blocks around
  // them.
  const uint64_t pages = Order(order).pages().value();
  if (random_.Below(options_.kept_one_in) < pages &&
      !kept_.Take(vcpu, Order(0))) {
    return false;
  }
  while (order > 0 && !rest_.Take(vcpu, Order(order))) {
    if (vcpu.blocked()) return false;
    --order;
  }
  return order > 0 || rest_.Take(vcpu, Order(0));
}

void FragmenterWorkload::Free(Vcpu& vcpu) {
  const uint64_t before = rest_.bytes();
  while (!rest_.empty() && before - rest_.bytes() < kFilledAtATime) {
    rest_.FreeOldest(vcpu);
  }
  if (rest_.empty()) phase_ = Phase::kQuiet;
}

}  // namespace guestmm
