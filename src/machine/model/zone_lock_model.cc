#include "src/machine/model/zone_lock_model.h"

#include <algorithm>

namespace guestmm {

ZoneLockModel::ZoneLockModel(const CostModel& costs, const Clock& clock,
                             PageAllocator& allocator, VcpuTimes& times)
    : costs_(costs),
      clock_(clock),
      allocator_(allocator),
      times_(times),
      holds_(allocator.zones().size()),
      uses_(static_cast<size_t>(allocator.cpus())) {
  allocator_.SetUseObserver(this);
}

ZoneLockModel::~ZoneLockModel() { allocator_.SetUseObserver(nullptr); }

void ZoneLockModel::ChargePending(int vcpu) {
  for (const Pending& use : pending_) OnVcpuLocked(vcpu, use);
  pending_.clear();
}

void ZoneLockModel::OnVcpuLocked(int vcpu, const Pending& use) {
  const Nanoseconds when = times_.Now(vcpu);
  uses_[static_cast<size_t>(vcpu)].push_back({.zone = use.zone, .when = when});
  for (const Interval& hold : holds_[static_cast<size_t>(use.zone)]) {
    if (hold.start <= when && when < hold.end) {
      times_.Charge(vcpu, CostKind::kIsolation,
                    static_cast<uint64_t>((hold.end - when).count()));
      break;
    }
  }
  times_.Charge(vcpu, CostKind::kBase,
                costs_.zone_visit + use.blocks * costs_.zone_block);
}

void ZoneLockModel::OnUnlock(const Zone& zone, const ZoneWork& work) {
  const uint64_t took = costs_.reporter_hold +
                        work.scanned * costs_.reporter_look +
                        work.isolated * costs_.reporter_isolate +
                        work.returned * costs_.reporter_return;
  hold_times_.Add(took);
  times_.DelayAnyone(CostKind::kIsolation, took);

  Holds& holds = holds_[static_cast<size_t>(zone.index())];
  const Nanoseconds start = std::max(reporter_until_, clock_.Now());
  const Nanoseconds end = start + Nanoseconds(took);
  reporter_until_ = end;
  while (!holds.empty() && holds.front().end <= clock_.Now()) {
    holds.pop_front();
  }
  holds.push_back({.start = start, .end = end});
  // vCPUs whose step ran before, but took the lock within this hold.
  for (size_t vcpu = 0; vcpu < uses_.size(); ++vcpu) {
    const auto later = [](const Use& use, Nanoseconds when) {
      return use.when < when;
    };
    const std::vector<Use>& uses = uses_[vcpu];
    for (auto use = std::lower_bound(uses.begin(), uses.end(), start, later);
         use != uses.end() && use->when < end; ++use) {
      if (use->zone != zone.index()) continue;
      times_.Delay(static_cast<int>(vcpu), CostKind::kIsolation,
                   static_cast<uint64_t>((end - use->when).count()));
      break;
    }
  }
}

uint64_t ZoneLockModel::ReporterLag() const {
  const Nanoseconds now = clock_.Now();
  return static_cast<uint64_t>((std::max(reporter_until_, now) - now).count());
}

}  // namespace guestmm
