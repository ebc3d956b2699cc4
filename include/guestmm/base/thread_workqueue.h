#ifndef GUESTMM_BASE_THREAD_WORKQUEUE_H_
#define GUESTMM_BASE_THREAD_WORKQUEUE_H_

#include <condition_variable>
#include <cstdint>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/timeline.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

// A Workqueue with its own thread, in real time.
class ThreadWorkqueue final : public Workqueue {
 public:
  ThreadWorkqueue();
  // Drops works that are still due and waits for the running one.
  ~ThreadWorkqueue() override;

  Nanoseconds Now() const override { return clock_.Now(); }

  bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) override;
  void CancelSync(Work& work) override;
  bool MayWait() const override {
    return std::this_thread::get_id() != thread_.get_id();
  }
  bool WaitUntil(absl::FunctionRef<bool()> condition,
                 Nanoseconds timeout = kForever) override;

 private:
  void Run();

  const MonotonicClock clock_;
  Mutex mutex_;
  Timeline timeline_ ABSL_GUARDED_BY(mutex_);
  Work* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::condition_variable_any due_changed_;
  std::condition_variable_any work_finished_;
  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_THREAD_WORKQUEUE_H_
