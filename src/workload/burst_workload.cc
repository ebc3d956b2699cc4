#include "guestmm/workload/burst_workload.h"

#include <algorithm>

namespace guestmm {

BurstWorkload::BurstWorkload(uint64_t bytes, uint64_t seed)
    : target_bytes_(bytes), stamp_(seed), random_(seed), memory_(seed) {}

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
      if (memory_.empty()) return std::nullopt;
      break;
  }
  return Nanoseconds(0);
}

void BurstWorkload::Grow(Vcpu& vcpu) {
  const uint64_t bytes =
      std::min(AddressSpace::kMostMixed, target_bytes_ - memory_.bytes());
  const bool all = memory_.MapMixed(vcpu, random_, bytes);
  peak_bytes_ = std::max(peak_bytes_, memory_.bytes());
  if (vcpu.blocked()) return;
  if (!all || memory_.bytes() >= target_bytes_) phase_ = Phase::kRead;
}

void BurstWorkload::Read(Vcpu& vcpu) {
  if (read_ == memory_.mappings().size()) {
    phase_ = Phase::kFree;
    return;
  }
  for (const HeldBlock& block : memory_.mappings()[read_++]) {
    if (corrupted_) break;
    corrupted_ = vcpu.FindCorrupted(block.pfn, block.order, stamp_);
  }
}

void BurstWorkload::Free(Vcpu& vcpu) {
  if (!memory_.empty()) memory_.UnmapNewest(vcpu);
}

}  // namespace guestmm
