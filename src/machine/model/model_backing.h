#ifndef GUESTMM_SRC_MACHINE_MODEL_MODEL_BACKING_H_
#define GUESTMM_SRC_MACHINE_MODEL_MODEL_BACKING_H_

#include <cstdint>
#include <optional>

#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/backing.h"
#include "guestmm/machine/model/cost_model.h"
#include "src/machine/model/metered_policy.h"
#include "src/machine/model/vcpu_times.h"
#include "src/machine/model/zone_lock_model.h"

namespace guestmm {

// Memory without contents: enters what vCPUs do in the host's ledger, and
// charges them for it.
class ModelBacking final : public Backing {
 public:
  // All must outlive this.
  ModelBacking(const CostModel& costs, HostLedger& ledger, VcpuTimes& times,
               ZoneLockModel& locks, HookCosts& hooks)
      : costs_(costs),
        ledger_(ledger),
        times_(times),
        locks_(locks),
        hooks_(hooks) {}

  void OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) override;
  void OnFreed(int vcpu, Pfn pfn, Order order) override;
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  // The first page that is not resident, and so was discarded.
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

  // Pages that vCPUs hold.
  PageCount allocated_pages() const { return allocated_; }

 private:
  // Charges what one operation of the allocator cost.
  void ChargeOperation(int vcpu, uint64_t base);

  const CostModel& costs_;
  HostLedger& ledger_;
  VcpuTimes& times_;
  ZoneLockModel& locks_;
  HookCosts& hooks_;
  PageCount allocated_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_MODEL_BACKING_H_
