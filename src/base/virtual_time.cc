#include "guestmm/base/virtual_time.h"

#include <algorithm>
#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/base/random.h"

namespace guestmm {

bool VirtualTime::Queue(Work& work, Nanoseconds delay) {
  if (work.source_ == 0) work.source_ = ++sources_;
  const uint64_t tie = Mix(seed_, work.source_, work.times_queued_);
  if (!timeline_.Add(work, now_ + delay, tie)) return false;
  ++work.times_queued_;
  return true;
}

void VirtualTime::CancelSync(Work& work) {
  timeline_.Remove(work);
  std::erase_if(waiting_, [&](const Waiting& w) { return w.work == &work; });
}

bool VirtualTime::QueueWhen(Work& work, std::function<bool()> condition) {
  const bool waits = std::any_of(
      waiting_.begin(), waiting_.end(),
      [&](const Waiting& waiting) { return waiting.work == &work; });
  if (waits || work.due_) return false;
  waiting_.push_back({.work = &work, .condition = std::move(condition)});
  QueueReady();
  return true;
}

bool VirtualTime::WaitUntil(absl::FunctionRef<bool()> condition,
                            Nanoseconds timeout) {
  GUESTMM_CHECK(MayWait()) << "a work waited for its own workqueue";
  const bool forever = timeout == kForever;
  const Nanoseconds deadline = forever ? kForever : now_ + timeout;
  ++changes_;
  QueueReady();
  while (!condition()) {
    if (forever ? IsIdle() : timeline_.empty() || timeline_.next() > deadline) {
      if (!forever) now_ = std::max(now_, deadline);
      return false;
    }
    RunFirst();
  }
  return true;
}

void VirtualTime::RunUntilIdle() {
  WaitUntil([] { return false; });
}

bool VirtualTime::IsIdle() const {
  return timeline_.AllOf([this](const Work& work) {
    return work.kind_ == Work::Kind::kDeferrable && work.ran_after_ == changes_;
  });
}

void VirtualTime::RunFirst() {
  now_ = std::max(now_, timeline_.next());
  Work& work = timeline_.TakeFirst();
  if (work.kind_ == Work::Kind::kNormal) ++changes_;
  work.ran_after_ = changes_;
  in_work_ = true;
  Timeline::Invoke(work);
  in_work_ = false;
  QueueReady();
}

void VirtualTime::QueueReady() {
  std::erase_if(waiting_, [this](const Waiting& waiting) {
    if (!waiting.condition()) return false;
    Queue(*waiting.work);
    return true;
  });
}

}  // namespace guestmm
