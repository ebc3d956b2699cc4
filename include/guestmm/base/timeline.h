#ifndef GUESTMM_BASE_TIMELINE_H_
#define GUESTMM_BASE_TIMELINE_H_

#include <cstdint>
#include <map>
#include <utility>

#include "absl/functional/function_ref.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

// The works that are due, in order: the part that all Workqueues share. Not
// thread-safe.
class Timeline {
 public:
  ~Timeline();

  // `tie` orders works due at the same time; equal ties keep the order in which
  // they were added. False if `work` is due already.
  bool Add(Work& work, Nanoseconds when, uint64_t tie);
  // False if `work` was not due.
  bool Remove(Work& work);

  bool empty() const { return due_.empty(); }
  // The time at which the first work falls due. REQUIRES: !empty().
  Nanoseconds next() const { return due_.begin()->first.first; }
  // True if `condition` holds for every work that is due.
  bool AllOf(absl::FunctionRef<bool(const Work&)> condition) const;
  // Removes and returns the first work. REQUIRES: !empty().
  Work& TakeFirst();

  static void Invoke(Work& work) { work.run_(); }

 private:
  // A multimap keeps equal keys in the order of insertion.
  std::multimap<std::pair<Nanoseconds, uint64_t>, Work*> due_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_TIMELINE_H_
