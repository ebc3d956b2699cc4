#include "src/machine/real/ledger_parts.h"

#include <cstring>

#include "guestmm/base/check.h"

namespace guestmm {

void LedgerBacking::OnAllocated(int, std::optional<Pfn> pfn, Order order) {
  if (pfn) ledger_.OnAllocated(*pfn, order);
}

void LedgerBacking::Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) {
  ledger_.OnTouched(pfn, order, clock_.Now());
  {
    const auto block =
        ram_.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
    GUESTMM_CHECK(block.has_value()) << pfn << " is not in guest RAM";
    std::memset(block->bytes().data(), 0, order.bytes());
  }
  RamBacking::Touch(vcpu, pfn, order, stamp);
}

std::optional<Pfn> LedgerBacking::FindCorrupted(int vcpu, Pfn pfn, Order order,
                                                uint64_t stamp) const {
  const std::optional<Pfn> found =
      RamBacking::FindCorrupted(vcpu, pfn, order, stamp);
  if (found) lost_.store(true, std::memory_order_relaxed);
  return found;
}

absl::Status LedgerHypervisor::Discard(std::span<const GpaRange> ranges) {
  absl::Status status = next_->Discard(ranges);
  // What a failed one discarded of several is not known.
  if (status.ok()) ledger_.OnReported(ranges, clock_.Now());
  LockHolder hold(mutex_);
  discards_.push_back(
      {.when = clock_.Now(), .bytes = ledger_.counters().discarded_bytes});
  return status;
}

std::vector<DiscardedUntil> LedgerHypervisor::discards() const {
  LockHolder hold(mutex_);
  return discards_;
}

void HoldTimer::OnLocked(const Zone&) { locked_at_ = clock_.Now(); }

void HoldTimer::OnUnlock(const Zone&, const ZoneWork&) {
  const Nanoseconds took = clock_.Now() - locked_at_;
  LockHolder hold(mutex_);
  times_.Add(static_cast<uint64_t>(took.count()));
}

HoldTimes HoldTimer::times() const {
  LockHolder hold(mutex_);
  return times_;
}

}  // namespace guestmm
