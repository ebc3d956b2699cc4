#include "guestmm/base/virtual_time.h"

#include <algorithm>

namespace guestmm {

bool VirtualTime::Queue(Work& work, Nanoseconds delay) {
  return timeline_.Add(work, now_ + delay, random_.Next());
}

void VirtualTime::CancelSync(Work& work) { timeline_.Remove(work); }

bool VirtualTime::WaitUntil(absl::FunctionRef<bool()> condition,
                            Nanoseconds timeout) {
  const Nanoseconds deadline = timeout == kForever ? kForever : now_ + timeout;
  while (!condition()) {
    if (timeline_.empty() || timeline_.next() > deadline) {
      if (deadline != kForever) now_ = std::max(now_, deadline);
      return false;
    }
    RunFirst();
  }
  return true;
}

void VirtualTime::RunFor(Nanoseconds duration) {
  WaitUntil([] { return false; }, duration);
}

void VirtualTime::RunUntilIdle() {
  while (!timeline_.empty()) RunFirst();
}

void VirtualTime::RunFirst() {
  now_ = std::max(now_, timeline_.next());
  Timeline::Invoke(timeline_.TakeFirst());
}

}  // namespace guestmm
