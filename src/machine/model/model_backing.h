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

// Memory that is not there: keeps the host's ledger of what would be resident,
// and charges each vCPU for what it does.
class ModelBacking final : public Backing {
 public:
  // All must outlive this. `hooks` is what the hook was called for so far.
  ModelBacking(const CostModel& costs, HostLedger& ledger, VcpuTimes& times,
               ZoneLockModel& locks, const HookCounts& hooks)
      : costs_(costs),
        ledger_(ledger),
        times_(times),
        locks_(locks),
        hooks_(hooks) {}

  void OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) override;
  void OnFreed(int vcpu, Pfn pfn, Order order) override;
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  // The first page that is not resident: it was discarded.
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

  // What vCPUs hold.
  PageCount allocated_pages() const { return allocated_; }

 private:
  void ChargeHooks(int vcpu);

  const CostModel& costs_;
  HostLedger& ledger_;
  VcpuTimes& times_;
  ZoneLockModel& locks_;
  const HookCounts& hooks_;
  HookCounts charged_;
  PageCount allocated_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_MODEL_BACKING_H_
