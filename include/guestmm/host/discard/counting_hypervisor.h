#ifndef GUESTMM_HOST_DISCARD_COUNTING_HYPERVISOR_H_
#define GUESTMM_HOST_DISCARD_COUNTING_HYPERVISOR_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"

namespace GUESTMM_EXPORT guestmm {

// Forwards discards to another hypervisor, and counts the batches.
class CountingHypervisor final : public Hypervisor {
 public:
  // REQUIRES: `next` is not null.
  explicit CountingHypervisor(std::unique_ptr<Hypervisor> next)
      : next_(std::move(next)) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    absl::Status status = next_->Discard(ranges);
    batches_.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  DiscardCounters counters() const override { return next_->counters(); }

  // Calls of Discard that have returned, whatever their result.
  uint64_t batches() const { return batches_.load(std::memory_order_relaxed); }

 private:
  const std::unique_ptr<Hypervisor> next_;
  std::atomic<uint64_t> batches_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_COUNTING_HYPERVISOR_H_
