#include "guestmm/host/discard/discard_inhibitor.h"

#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {

DiscardInhibitor::DiscardInhibitor(std::unique_ptr<Hypervisor> next)
    : next_(std::move(next)) {}

void DiscardInhibitor::Inhibit() {
  LockHolder hold(mutex_);
  // From here on no discard is added to those in progress.
  ++inhibitions_;
  while (under_way_ > 0) idle_.wait(mutex_);
}

void DiscardInhibitor::Allow() {
  LockHolder hold(mutex_);
  GUESTMM_CHECK(inhibitions_ > 0) << "Allow called more often than Inhibit";
  --inhibitions_;
}

bool DiscardInhibitor::inhibited() const {
  LockHolder hold(mutex_);
  return inhibitions_ > 0;
}

absl::Status DiscardInhibitor::Discard(std::span<const GpaRange> ranges) {
  {
    LockHolder hold(mutex_);
    if (inhibitions_ > 0) {
      ++inhibited_discards_;
      for (const GpaRange& range : ranges) inhibited_bytes_ += range.bytes;
      return absl::OkStatus();
    }
    ++under_way_;
  }
  absl::Status status = next_->Discard(ranges);
  LockHolder hold(mutex_);
  if (--under_way_ == 0) idle_.notify_all();
  return status;
}

DiscardCounters DiscardInhibitor::counters() const {
  DiscardCounters counters = next_->counters();
  LockHolder hold(mutex_);
  counters.inhibited_discards += inhibited_discards_;
  counters.inhibited_bytes += inhibited_bytes_;
  return counters;
}

}  // namespace guestmm
