#include "src/vmm/statistics_timer.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace guestmm {

StatisticsTimer::StatisticsTimer(Workqueue& workqueue,
                                 std::function<void(uint64_t)> request)
    : workqueue_(workqueue),
      request_(std::move(request)),
      work_([this] { Run(); }) {}

StatisticsTimer::~StatisticsTimer() {
  {
    LockHolder hold(mutex_);
    guests_.clear();
  }
  workqueue_.CancelSync(work_);
}

void StatisticsTimer::Set(uint64_t guest, Nanoseconds interval) {
  {
    LockHolder hold(mutex_);
    if (interval <= Nanoseconds(0)) {
      guests_.erase(guest);
      return;
    }
    guests_[guest] = {.interval = interval, .next = workqueue_.Now()};
  }
  // It may be due later. If it runs now and queues itself again, it has seen
  // this guest.
  workqueue_.CancelSync(work_);
  workqueue_.Queue(work_);
}

Nanoseconds StatisticsTimer::interval(uint64_t guest) const {
  LockHolder hold(mutex_);
  const auto found = guests_.find(guest);
  return found != guests_.end() ? found->second.interval : Nanoseconds(0);
}

void StatisticsTimer::Run() {
  std::vector<uint64_t> due;
  {
    LockHolder hold(mutex_);
    if (guests_.empty()) return;
    const Nanoseconds now = workqueue_.Now();
    Nanoseconds next = Workqueue::kForever;
    for (auto& [id, guest] : guests_) {
      if (guest.next <= now) {
        due.push_back(id);
        // Without catching up: a late request replaces those that were missed.
        guest.next = now + guest.interval;
      }
      next = std::min(next, guest.next);
    }
    workqueue_.Queue(work_, next - now);
  }
  for (const uint64_t id : due) request_(id);
}

}  // namespace guestmm
