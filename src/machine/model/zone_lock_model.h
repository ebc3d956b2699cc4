#ifndef GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_
#define GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_

#include <cstddef>
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
class ZoneLockModel final : public LockHoldObserver, private ZoneUseObserver {
 public:
  // All must outlive this.
  ZoneLockModel(const CostModel& costs, const Clock& clock,
                PageAllocator& allocator, VcpuTimes& times);
  ~ZoneLockModel() override;

  // vCPU `vcpu` allocated or freed a block: charges it for the zones that were
  // used since the last call. Which vCPU that was for is known only when its
  // operation has ended.
  void OnVcpuUsedAllocator(int vcpu) {
    // Most operations use the vCPU's own lists only.
    if (!pending_.empty()) [[unlikely]]
      ChargePending(vcpu);
  }
  // The vCPU begins a step.
  void OnStep(int vcpu) { uses_[static_cast<size_t>(vcpu)].clear(); }

  const HoldTimes& hold_times() const { return hold_times_; }
  // The time until the end of the reporter's last hold, in ns.
  uint64_t ReporterLag() const;

  // LockHoldObserver:
  void OnUnlock(const Zone& zone, const ZoneWork& work) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());

 private:
  struct Interval {
    Nanoseconds start;
    Nanoseconds end;
  };
  // The reporter's holds of one zone's lock that have not ended, ascending.
  using Holds = std::deque<Interval>;
  // A use of a zone by an operation that has not ended.
  struct Pending {
    int zone;
    size_t blocks;
  };
  // An acquisition of a lock by a vCPU, in its present step.
  struct Use {
    int zone;
    Nanoseconds when;
  };

  // ZoneUseObserver:
  void OnZoneUsed(const Zone& zone, size_t blocks) override {
    pending_.push_back({.zone = zone.index(), .blocks = blocks});
  }

  void ChargePending(int vcpu);
  void OnVcpuLocked(int vcpu, const Pending& use);

  const CostModel& costs_;
  const Clock& clock_;
  PageAllocator& allocator_;
  VcpuTimes& times_;
  std::vector<Holds> holds_;  // by zone
  std::vector<Pending> pending_;
  std::vector<std::vector<Use>> uses_;

  // The end of the reporter's last hold.
  Nanoseconds reporter_until_{0};
  HoldTimes hold_times_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_ZONE_LOCK_MODEL_H_
