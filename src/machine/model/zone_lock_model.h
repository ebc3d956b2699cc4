#ifndef GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_
#define GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/accounting/hold_times.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/zone_lock_guard.h"
#include "src/machine/model/vcpu_times.h"

namespace guestmm {

// Zone locks in virtual time: how long the reporter holds them, and how long
// vCPUs wait for it.
//
// In virtual time everything happens in an instant, so no lock is ever
// contended. The length of a hold is computed from the work done under it;
// holds follow each other from the instant at which the reporter ran. A vCPU
// that takes the same lock within a hold waits for its end, whichever of the
// two ran first here:
//
//   vCPU      |----step-------x--------|        x: takes the lock, waits ->
//   reporter                 |==hold==|
//
// vCPUs do not wait for each other, nor the reporter for vCPUs: that is the
// same under every policy.
class ZoneLockModel final : public LockHoldObserver {
 public:
  // All must outlive this.
  ZoneLockModel(const CostModel& costs, const Clock& clock,
                const PageAllocator& allocator, VcpuTimes& times);

  // vCPU `vcpu` allocated or freed a block of `order`. It took the locks of the
  // zones whose free pages changed. Those are compared after each operation,
  // since a hook in the allocator would cost every other user of it; in all
  // zones, since an operation may drain the per-CPU lists of any.
  void OnVcpuUsedAllocator(int vcpu, Order order);
  // The vCPU begins a step.
  void OnStep(int vcpu) { uses_[static_cast<size_t>(vcpu)].clear(); }

  const HoldTimes& hold_times() const { return hold_times_; }
  // How long until the end of the reporter's last hold, in ns.
  uint64_t ReporterLag() const;

  // LockHoldObserver:
  void OnLocked(const Zone& zone) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void OnUnlock(const Zone& zone) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());

 private:
  struct Interval {
    Nanoseconds start;
    Nanoseconds end;
  };
  struct ZoneState {
    const Zone* zone;
    uint64_t free_pages = 0;
    // Those of the reporter's holds that have not ended, ascending.
    std::deque<Interval> holds;
  };
  // An acquisition of a lock by a vCPU, in its present step.
  struct Use {
    int zone;
    Nanoseconds when;
  };

  ZoneState& StateOf(const Zone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }
  void OnVcpuLocked(int vcpu, ZoneState& state, uint64_t blocks);

  const CostModel& costs_;
  const Clock& clock_;
  VcpuTimes& times_;
  std::vector<ZoneState> zones_;
  // Zones with memory, by index.
  std::vector<size_t> populated_;
  std::vector<std::vector<Use>> uses_;

  Zone::ReportingWork work_at_lock_;
  // The end of the reporter's last hold.
  Nanoseconds reporter_until_{0};
  HoldTimes hold_times_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_
