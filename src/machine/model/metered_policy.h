#ifndef GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_
#define GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "guestmm/reporting/reporting_policy.h"
#include "src/reporting/forwarding_policy.h"

namespace guestmm {

// How often the hook was called.
struct HookCounts {
  uint64_t freed = 0;  // calls of BlockFreed
  // Of BlocksTaken: for one block, and for several.
  uint64_t taken = 0;
  uint64_t taken_batches = 0;
};

// A policy, and a count of what the hook tells it. On one thread.
class MeteredPolicy final : public ForwardingPolicy {
 public:
  // `counts` must outlive this.
  MeteredPolicy(std::unique_ptr<ReportingPolicy> policy, HookCounts& counts)
      : ForwardingPolicy(std::move(policy)), counts_(counts) {}

  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    ++counts_.freed;
    return ForwardingPolicy::BlockFreed(zone, pfn, order);
  }
  void BlocksTaken(ReportableZone& zone, std::span<const Pfn> blocks,
                   Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    ++(blocks.size() > 1 ? counts_.taken_batches : counts_.taken);
    ForwardingPolicy::BlocksTaken(zone, blocks, order);
  }

 private:
  HookCounts& counts_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_METERED_POLICY_H_
