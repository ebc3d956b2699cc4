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
  if (growing_) {
    Grow(vcpu);
    return Nanoseconds(0);
  }
  Shrink(vcpu);
  if (freed_ == blocks_.size()) return std::nullopt;
  return Nanoseconds(0);
}

void BurstWorkload::Grow(Vcpu& vcpu) {
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
      growing_ = false;
      return;
    }
  }
  if (allocated_bytes_ >= target_bytes_) growing_ = false;
}

bool BurstWorkload::AllocateBlock(Vcpu& vcpu, Order order) {
  const std::optional<Pfn> pfn = vcpu.Allocate(order);
  if (!pfn) return false;
  vcpu.Touch(*pfn, order, stamp_);
  blocks_.push_back({*pfn, order});
  allocated_bytes_ += order.bytes();
  peak_bytes_ = std::max(peak_bytes_, allocated_bytes_);
  return true;
}

void BurstWorkload::Shrink(Vcpu& vcpu) {
  uint64_t freed_bytes = 0;
  while (freed_ < blocks_.size() && freed_bytes < kStepBytes) {
    const Block& block = blocks_[freed_++];
    if (!corrupted_) {
      corrupted_ = vcpu.FindCorrupted(block.pfn, block.order, stamp_);
    }
    vcpu.Free(block.pfn, block.order);
    freed_bytes += block.order.bytes();
  }
  allocated_bytes_ -= freed_bytes;
}

}  // namespace guestmm
