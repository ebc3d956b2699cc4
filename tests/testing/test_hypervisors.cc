#include "tests/testing/test_hypervisors.h"

namespace guestmm {

absl::Status RecordingHypervisor::Discard(std::span<const GpaRange> ranges) {
  {
    LockHolder hold(mutex_);
    batches_.emplace_back(ranges.begin(), ranges.end());
  }
  if (on_discard_) on_discard_(ranges);
  return next_ != nullptr ? next_->Discard(ranges) : absl::OkStatus();
}

DiscardCounters RecordingHypervisor::counters() const {
  return next_ != nullptr ? next_->counters() : DiscardCounters{};
}

std::vector<std::vector<GpaRange>> RecordingHypervisor::batches() const {
  LockHolder hold(mutex_);
  return batches_;
}

absl::Status FailingHypervisor::Discard(std::span<const GpaRange> ranges) {
  {
    LockHolder hold(mutex_);
    if (fails_(discards_++)) {
      ++failures_;
      return absl::UnavailableError("discard refused by FailingHypervisor");
    }
  }
  return next_.Discard(ranges);
}

DiscardCounters FailingHypervisor::counters() const {
  DiscardCounters counters = next_.counters();
  LockHolder hold(mutex_);
  counters.failures += failures_;
  return counters;
}

}  // namespace guestmm
