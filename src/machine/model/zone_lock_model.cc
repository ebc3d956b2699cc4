#include "src/machine/model/zone_lock_model.h"

#include <algorithm>

namespace guestmm {

ZoneLockModel::ZoneLockModel(const CostModel& costs, const Clock& clock,
                             const PageAllocator& allocator, VcpuTimes& times)
    : costs_(costs),
      clock_(clock),
      times_(times),
      uses_(static_cast<size_t>(allocator.cpus())) {
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    if (zone->managed_pages() > PageCount(0))
      populated_.push_back(zones_.size());
    zones_.push_back({.zone = zone.get(),
                      .free_pages = zone->free_pages().value(),
                      .holds = {}});
  }
}

void ZoneLockModel::OnVcpuUsedAllocator(int vcpu, Order order) {
  for (const size_t index : populated_) {
    ZoneState& state = zones_[index];
    const uint64_t now_free = state.zone->free_pages().value();
    if (now_free == state.free_pages) continue;
    const uint64_t pages = now_free > state.free_pages
                               ? now_free - state.free_pages
                               : state.free_pages - now_free;
    state.free_pages = now_free;
    OnVcpuLocked(vcpu, state, std::max<uint64_t>(1, pages >> order.value()));
  }
}

void ZoneLockModel::OnVcpuLocked(int vcpu, ZoneState& state, uint64_t blocks) {
  const Nanoseconds when = times_.Now(vcpu);
  uses_[static_cast<size_t>(vcpu)].push_back(
      {.zone = state.zone->index(), .when = when});
  for (const Interval& hold : state.holds) {
    if (hold.start <= when && when < hold.end) {
      times_.Charge(vcpu, CostKind::kIsolation,
                    static_cast<uint64_t>((hold.end - when).count()));
      break;
    }
  }
  times_.Charge(vcpu, CostKind::kBase,
                costs_.zone_visit + blocks * costs_.zone_block);
}

void ZoneLockModel::OnLocked(const Zone& zone) {
  work_at_lock_ = zone.reporting_work();
}

void ZoneLockModel::OnUnlock(const Zone& zone) {
  const Zone::ReportingWork work = zone.reporting_work();
  const uint64_t took =
      costs_.reporter_hold +
      (work.looks - work_at_lock_.looks) * costs_.reporter_look +
      (work.isolated - work_at_lock_.isolated) * costs_.reporter_isolate +
      (work.returned - work_at_lock_.returned) * costs_.reporter_return;
  hold_times_.Add(took);
  times_.DelayAnyone(CostKind::kIsolation, took);

  ZoneState& state = StateOf(zone);
  state.free_pages = zone.free_pages().value();
  const Nanoseconds start = std::max(reporter_until_, clock_.Now());
  const Nanoseconds end = start + Nanoseconds(took);
  reporter_until_ = end;
  while (!state.holds.empty() && state.holds.front().end <= clock_.Now()) {
    state.holds.pop_front();
  }
  state.holds.push_back({.start = start, .end = end});
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
