#ifndef GUESTMM_SRC_VMM_STATISTICS_TIMER_H_
#define GUESTMM_SRC_VMM_STATISTICS_TIMER_H_

#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"

namespace guestmm {

// Requests statistics of guests at intervals. Thread-safe.
class StatisticsTimer {
 public:
  // Calls `request` with a guest's number, on `workqueue`, which must outlive
  // this.
  StatisticsTimer(Workqueue& workqueue, std::function<void(uint64_t)> request);
  ~StatisticsTimer();
  StatisticsTimer(const StatisticsTimer&) = delete;
  StatisticsTimer& operator=(const StatisticsTimer&) = delete;

  // Requests at once, and then every `interval`; 0: no more. Must not be called
  // by `request`.
  void Set(uint64_t guest, Nanoseconds interval);
  // 0 for none.
  Nanoseconds interval(uint64_t guest) const;

 private:
  struct Guest {
    Nanoseconds interval;
    Nanoseconds next;
  };

  void Run();

  Workqueue& workqueue_;
  const std::function<void(uint64_t)> request_;
  mutable Mutex mutex_;
  std::map<uint64_t, Guest> guests_ ABSL_GUARDED_BY(mutex_);
  Work work_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VMM_STATISTICS_TIMER_H_
