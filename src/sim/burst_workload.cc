#include "guestmm/sim/burst_workload.h"

#include <algorithm>

namespace guestmm {
namespace {

constexpr uint64_t kStepBytes = kPageblockOrder.bytes();
constexpr int kLargestSmallOrder = 3;

}  // namespace

BurstWorkload::BurstWorkload(uint64_t bytes, uint64_t seed)
    : target_bytes_(bytes), stamp_(seed), random_(seed) {}

std::optional<Nanoseconds> BurstWorkload::Step(Vcpu& vcpu) {
  switch (phase_) {
    case Phase::kGrow:
      Grow(vcpu);
      break;
    case Phase::kRead:
      Read(vcpu);
      break;
    case Phase::kFree:
      Free(vcpu);
      if (mappings_.empty()) return std::nullopt;
      break;
  }
  return Nanoseconds(0);
}

void BurstWorkload::Grow(Vcpu& vcpu) {
  mappings_.emplace_back();
  const uint64_t step_end =
      std::min(allocated_bytes_ + kStepBytes, target_bytes_);
  if (allocated_bytes_ + kStepBytes <= target_bytes_ && random_.OneIn(2) &&
      AllocateBlock(vcpu, kPageblockOrder)) {
    return;
  }
  while (allocated_bytes_ < step_end) {
    const uint64_t pages_left =
        (step_end - allocated_bytes_ + kPageSize - 1) / kPageSize;
    int order = static_cast<int>(random_.Below(kLargestSmallOrder + 1));
    while (Order(order).pages().value() > pages_left) --order;
    while (order > 0 && !AllocateBlock(vcpu, Order(order))) --order;
    if (order == 0 && !AllocateBlock(vcpu, Order(0))) {
      phase_ = Phase::kRead;
      return;
    }
  }
  if (allocated_bytes_ >= target_bytes_) phase_ = Phase::kRead;
}

bool BurstWorkload::AllocateBlock(Vcpu& vcpu, Order order) {
  const std::optional<Pfn> pfn = vcpu.Allocate(order);
  if (!pfn) return false;
  vcpu.Touch(*pfn, order, stamp_);
  mappings_.back().push_back({*pfn, order});
  allocated_bytes_ += order.bytes();
  peak_bytes_ = std::max(peak_bytes_, allocated_bytes_);
  return true;
}

void BurstWorkload::Read(Vcpu& vcpu) {
  if (read_ == mappings_.size()) {
    phase_ = Phase::kFree;
    return;
  }
  for (const Block& block : mappings_[read_++]) {
    if (corrupted_) break;
    corrupted_ = vcpu.FindCorrupted(block.pfn, block.order, stamp_);
  }
}

void BurstWorkload::Free(Vcpu& vcpu) {
  if (mappings_.empty()) return;
  for (const Block& block : mappings_.back()) {
    vcpu.Free(block.pfn, block.order);
    allocated_bytes_ -= block.order.bytes();
  }
  mappings_.pop_back();
}

}  // namespace guestmm
