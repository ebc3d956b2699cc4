#include "guestmm/base/thread_workqueue.h"

#include "guestmm/base/check.h"

namespace guestmm {

ThreadWorkqueue::ThreadWorkqueue() : thread_([this] { Run(); }) {}

ThreadWorkqueue::~ThreadWorkqueue() {
  {
    LockHolder hold(mutex_);
    stop_ = true;
  }
  due_changed_.notify_all();
  thread_.join();
}

bool ThreadWorkqueue::Queue(Work& work, Nanoseconds delay) {
  {
    LockHolder hold(mutex_);
    if (!timeline_.Add(work, clock_.Now() + delay, 0)) return false;
  }
  due_changed_.notify_one();
  return true;
}

void ThreadWorkqueue::CancelSync(Work& work) {
  LockHolder hold(mutex_);
  if (timeline_.Remove(work)) {
    ++finished_;
    work_finished_.notify_all();
  }
  if (!MayWait()) return;
  while (running_ == &work) {
    work_finished_.wait(mutex_);
    timeline_.Remove(work);  // it may have queued itself
  }
}

bool ThreadWorkqueue::WaitUntil(absl::FunctionRef<bool()> condition,
                                Nanoseconds timeout) {
  GUESTMM_CHECK(MayWait()) << "a work waited for its own workqueue";
  using SteadyClock = std::chrono::steady_clock;
  const SteadyClock::time_point now = SteadyClock::now();
  const bool forever = timeout >= SteadyClock::time_point::max() - now;
  const SteadyClock::time_point deadline = forever ? now : now + timeout;
  bool timed_out = false;
  while (true) {
    uint64_t finished = 0;
    {
      LockHolder hold(mutex_);
      finished = finished_;
    }
    if (condition()) return true;
    if (timed_out) return false;
    LockHolder hold(mutex_);
    while (finished_ == finished && !timed_out) {
      if (forever) {
        work_finished_.wait(mutex_);
      } else {
        // One more look at the condition follows.
        timed_out = work_finished_.wait_until(mutex_, deadline) ==
                    std::cv_status::timeout;
      }
    }
  }
}

void ThreadWorkqueue::Run() {
  LockHolder hold(mutex_);
  while (!stop_) {
    if (timeline_.empty()) {
      due_changed_.wait(mutex_);
      continue;
    }
    const Nanoseconds delay = timeline_.next() - clock_.Now();
    if (delay > Nanoseconds(0)) {
      due_changed_.wait_for(mutex_, delay);
      continue;
    }
    Work& work = timeline_.TakeFirst();
    running_ = &work;
    mutex_.Unlock();
    Timeline::Invoke(work);
    mutex_.Lock();
    running_ = nullptr;
    ++finished_;
    work_finished_.notify_all();
  }
}

}  // namespace guestmm
