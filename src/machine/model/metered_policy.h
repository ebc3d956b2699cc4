#ifndef GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_
#define GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/reporting_policy.h"
#include "src/reporting/forwarding_policy.h"

namespace guestmm {

// The costs of calls of a policy's hook, in ns, until a vCPU is charged for
// them. A hook is called inside an operation of the allocator; the vCPU that
// asked for the operation is known only when it has ended.
class HookCosts {
 public:
  // `costs` must outlive this.
  explicit HookCosts(const CostModel& costs) : costs_(costs) {}

  // BlockFreed was called; BlocksTaken was called, for several blocks or one.
  void OnFreed() { pending_ += costs_.hook_freed; }
  void OnTaken(bool is_batch) {
    pending_ += is_batch ? costs_.hook_taken_batch : costs_.hook_taken;
  }
  // Returns the costs not charged yet; from now on they count as charged.
  uint64_t Take() { return std::exchange(pending_, 0); }

 private:
  const CostModel& costs_;
  uint64_t pending_ = 0;
};

// A policy whose hook costs time. On one thread.
class MeteredPolicy final : public ForwardingPolicy {
 public:
  // `costs` must outlive this.
  MeteredPolicy(std::unique_ptr<ReportingPolicy> policy, HookCosts& costs)
      : ForwardingPolicy(std::move(policy)), costs_(costs) {}

  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    costs_.OnFreed();
    return ForwardingPolicy::BlockFreed(zone, pfn, order);
  }
  void BlocksTaken(ReportableZone& zone, std::span<const PfnRange> runs,
                   Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    costs_.OnTaken(runs.size() > 1 || runs.front().pages() > order.pages());
    ForwardingPolicy::BlocksTaken(zone, runs, order);
  }

 private:
  HookCosts& costs_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_
