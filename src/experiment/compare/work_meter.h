#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_WORK_METER_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_WORK_METER_H_

// Gives every run of a workload the same work, and measures how long it takes.
//
// The run without reporting ends by the clock. What each of its vCPUs has done
// by then is that vCPU's part of all other runs: there it stops when it has
// done as much, and has then been at it for as long.
//
//   off       |work|work|.......|work|....end       after the duration
//   a policy  |work |work|........|work |....end    after the same work

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/recipes.h"

namespace guestmm {

// The progress of a vCPU: the work that it has done, and the time since the
// step that did the last of it began (since the start, if nothing is done).
struct WorkMark {
  uint64_t work = 0;
  Nanoseconds since{0};
};

// A fixed amount of work, by vCPU: where the warm-up ends, and where the work
// does.
struct WorkAmount {
  struct Part {
    WorkMark warmup = {};
    WorkMark end = {};
  };
  std::vector<Part> by_vcpu;
};

// Measures the workload of one vCPU, and ends it after its part of an amount.
// Thread-safe; one thread steps.
class MeteredWorkload final : public Workload {
 public:
  using Now = std::function<Nanoseconds()>;

  // `part` unset: ends with the workload or at MarkEnd.
  MeteredWorkload(Workload& workload, Now now,
                  std::optional<WorkAmount::Part> part);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override;

  // Without a part: the warm-up ends at this instant.
  void MarkWarmup();
  // The work ends at this instant, unless it is known already when it does.
  void MarkEnd();
  // The time at which the work ends, which may be after the present; unset
  // until it is known.
  std::optional<Nanoseconds> end() const;
  // The marks, as the part of other runs. REQUIRES: MarkWarmup, MarkEnd.
  WorkAmount::Part part() const;

  // The work between the marks, and the time between them. While the end is not
  // known, up to the present; zero before the end of the warm-up.
  uint64_t measured_work() const;
  Nanoseconds measured_time() const;

 private:
  struct Mark {
    WorkMark at;
    Nanoseconds when;
  };

  Mark Here() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sets the marks that the work done has reached.
  void Reach() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Workload& workload_;
  const Now now_;
  const std::optional<WorkAmount::Part> part_;

  mutable Mutex mutex_;
  uint64_t work_ ABSL_GUARDED_BY(mutex_);
  // The time at which the step that did the last of work_ began.
  Nanoseconds worked_at_ ABSL_GUARDED_BY(mutex_);
  std::optional<Mark> warmup_ ABSL_GUARDED_BY(mutex_);
  std::optional<Mark> end_ ABSL_GUARDED_BY(mutex_);
};

// All vCPUs of one run.
class WorkMeter {
 public:
  // `load` must outlive this. `amount` null: runs until MarkEnd.
  WorkMeter(const GuestLoad& load, const MeteredWorkload::Now& now,
            const WorkAmount* amount);

  // By vCPU, null for one that idles.
  std::vector<Workload*> workloads() const;

  void MarkWarmup();
  void MarkEnd();
  // The time at which the work of the last vCPU ends, which may be after the
  // present; unset until it is known.
  std::optional<Nanoseconds> end() const;
  WorkAmount amount() const;

  // Between the marks: what all vCPUs did; and the mean of how long it took
  // them, since each stops on its own.
  uint64_t work() const;
  double seconds() const;

 private:
  std::vector<std::unique_ptr<MeteredWorkload>> by_vcpu_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_WORK_METER_H_
