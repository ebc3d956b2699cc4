#include "src/host/accounting/ledger_hypervisor.h"

namespace guestmm {

absl::Status LedgerHypervisor::Discard(std::span<const GpaRange> ranges) {
  absl::Status status = next_->Discard(ranges);
  // After a failure it is unknown which of the ranges were discarded.
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

}  // namespace guestmm
