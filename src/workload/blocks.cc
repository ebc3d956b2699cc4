#include "guestmm/workload/blocks.h"

#include <optional>

namespace guestmm {
namespace {

constexpr int kLargestSmallOrder = 3;

}  // namespace

bool Blocks::Take(Vcpu& vcpu, Order order, Gfp gfp) {
  const std::optional<Pfn> pfn = vcpu.Allocate(order, gfp);
  if (!pfn) return false;
  vcpu.Touch(*pfn, order, stamp_);
  // Makes room, rather than a larger vector, if at least half is freed.
  if (blocks_.size() == blocks_.capacity() && oldest_ > size()) DropFreed();
  blocks_.push_back({*pfn, order});
  bytes_ += order.bytes();
  touched_ += order.pages();
  return true;
}

void Blocks::FreeOldest(Vcpu& vcpu) {
  Free(vcpu, blocks_[oldest_]);
  ++oldest_;
  if (empty()) DropFreed();
}

void Blocks::DropFreed() {
  blocks_.erase(blocks_.begin(),
                blocks_.begin() + static_cast<std::ptrdiff_t>(oldest_));
  oldest_ = 0;
}

void Blocks::FreeAt(Vcpu& vcpu, size_t index) {
  HeldBlock& block = blocks_[oldest_ + index];
  Free(vcpu, block);
  block = blocks_.back();
  blocks_.pop_back();
}

void Blocks::Free(Vcpu& vcpu, HeldBlock block) {
  vcpu.Free(block.pfn, block.order);
  bytes_ -= block.order.bytes();
}

bool AddressSpace::Populate(Vcpu& vcpu, Order order) {
  const std::optional<Pfn> pfn = vcpu.Allocate(order);
  if (!pfn) return false;
  vcpu.Touch(*pfn, order, stamp_);
  mappings_.back().push_back({*pfn, order});
  bytes_ += order.bytes();
  touched_ += order.pages();
  return true;
}

bool AddressSpace::MapMixed(Vcpu& vcpu, Random& random, uint64_t bytes) {
  Map();
  if (bytes == kMostMixed && random.OneIn(2)) {
    if (Populate(vcpu, kPageblockOrder)) return true;
    if (vcpu.blocked()) return false;
  }
  const uint64_t end = bytes_ + bytes;
  while (bytes_ < end) {
    const uint64_t pages_left = (end - bytes_ + kPageSize - 1) / kPageSize;
    int order = static_cast<int>(random.Below(kLargestSmallOrder + 1));
    while (Order(order).pages().value() > pages_left) --order;
    while (order > 0 && !Populate(vcpu, Order(order))) {
      if (vcpu.blocked()) return false;
      --order;
    }
    if (order == 0 && !Populate(vcpu, Order(0))) return false;
  }
  return true;
}

void AddressSpace::Unmap(Vcpu& vcpu, size_t index) {
  for (const HeldBlock& block : mappings_[index]) {
    vcpu.Free(block.pfn, block.order);
    bytes_ -= block.order.bytes();
  }
  mappings_.erase(mappings_.begin() + static_cast<std::ptrdiff_t>(index));
}

}  // namespace guestmm
