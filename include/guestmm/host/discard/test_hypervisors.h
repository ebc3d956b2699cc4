#ifndef GUESTMM_HOST_DISCARD_TEST_HYPERVISORS_H_
#define GUESTMM_HOST_DISCARD_TEST_HYPERVISORS_H_

// Hypervisors for tests and controlled experiments.

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/host/discard/hypervisor.h"

namespace guestmm {

// Accepts everything and discards nothing: the negative control of every
// experiment.
class NullHypervisor final : public Hypervisor {
 public:
  absl::Status Discard(std::span<const GpaRange>) override {
    return absl::OkStatus();
  }
  DiscardCounters counters() const override { return {}; }
};

// Remembers every range and, given a `next`, passes it on. `on_discard` runs
// before that, with no lock held: a test may use the guest from inside it, as
// other threads would.
class RecordingHypervisor final : public Hypervisor {
 public:
  using Hook = std::function<void(std::span<const GpaRange>)>;

  explicit RecordingHypervisor(Hypervisor* next = nullptr, Hook on_discard = {})
      : next_(next), on_discard_(std::move(on_discard)) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

  // The batches so far, in order.
  std::vector<std::vector<GpaRange>> batches() const;

 private:
  Hypervisor* const next_;
  Hook on_discard_;
  mutable Mutex mutex_;
  std::vector<std::vector<GpaRange>> batches_ ABSL_GUARDED_BY(mutex_);
};

// Refuses the discards for which `fails` says so (given their number, from 0)
// and passes the others on.
class FailingHypervisor final : public Hypervisor {
 public:
  FailingHypervisor(Hypervisor& next, std::function<bool(uint64_t)> fails)
      : next_(next), fails_(std::move(fails)) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

 private:
  Hypervisor& next_;
  mutable Mutex mutex_;
  std::function<bool(uint64_t)> fails_ ABSL_GUARDED_BY(mutex_);
  uint64_t discards_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_TEST_HYPERVISORS_H_
