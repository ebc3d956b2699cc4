#ifndef GUESTMM_TESTS_TESTING_TEST_HYPERVISORS_H_
#define GUESTMM_TESTS_TESTING_TEST_HYPERVISORS_H_

// Decorators of Hypervisor for tests.

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"

namespace guestmm {

// Records every batch and forwards it to `next`, if there is one. `on_discard`
// runs before that, without a lock held: a test may use the guest from inside
// it, as other threads would.
class RecordingHypervisor final : public Hypervisor {
 public:
  using Hook = std::function<void(std::span<const GpaRange>)>;

  explicit RecordingHypervisor(Hypervisor* next = nullptr, Hook on_discard = {})
      : next_(next), on_discard_(std::move(on_discard)) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

  // All batches so far, in order.
  std::vector<std::vector<GpaRange>> batches() const;

 private:
  Hypervisor* const next_;
  Hook on_discard_;
  mutable Mutex mutex_;
  std::vector<std::vector<GpaRange>> batches_ ABSL_GUARDED_BY(mutex_);
};

// Fails the discards for which `fails` returns true (its argument is their
// number, from 0) and forwards the others to `next`.
class FailingHypervisor final : public Hypervisor {
 public:
  FailingHypervisor(Hypervisor& next, std::function<bool(uint64_t)> fails)
      : next_(next), fails_(std::move(fails)) {}

  // Unavailable if `fails` returned true.
  absl::Status Discard(std::span<const GpaRange> ranges) override;
  // Those of `next`, plus the failures here.
  DiscardCounters counters() const override;

 private:
  Hypervisor& next_;
  mutable Mutex mutex_;
  std::function<bool(uint64_t)> fails_ ABSL_GUARDED_BY(mutex_);
  uint64_t discards_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_TEST_HYPERVISORS_H_
