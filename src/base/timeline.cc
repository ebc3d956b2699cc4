#include "guestmm/base/timeline.h"

#include <algorithm>

#include "guestmm/base/check.h"

namespace guestmm {

Work::~Work() {
  GUESTMM_CHECK(!due_) << "a work was destroyed while it was due";
}

Timeline::~Timeline() {
  while (!empty()) TakeFirst();
}

bool Timeline::Add(Work& work, Nanoseconds when, uint64_t tie) {
  if (work.due_) return false;
  work.due_ = true;
  work.when_ = when;
  work.tie_ = tie;
  due_.emplace(std::pair(when, tie), &work);
  return true;
}

bool Timeline::Remove(Work& work) {
  if (!work.due_) return false;
  auto [first, last] = due_.equal_range(std::pair(work.when_, work.tie_));
  while (first != last && first->second != &work) ++first;
  GUESTMM_CHECK(first != last) << "a work is due on another queue";
  due_.erase(first);
  work.due_ = false;
  return true;
}

bool Timeline::AllOf(absl::FunctionRef<bool(const Work&)> condition) const {
  return std::all_of(due_.begin(), due_.end(),
                     [&](const auto& due) { return condition(*due.second); });
}

Work& Timeline::TakeFirst() {
  Work& work = *due_.begin()->second;
  due_.erase(due_.begin());
  work.due_ = false;
  return work;
}

}  // namespace guestmm
