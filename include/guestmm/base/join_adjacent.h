#ifndef GUESTMM_BASE_JOIN_ADJACENT_H_
#define GUESTMM_BASE_JOIN_ADJACENT_H_

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Sorts `ranges`, a vector, by `less`, and joins adjacent ones. For each range
// in order, `extend(last, range)` is called with the range before it: if they
// are adjacent, it must extend `last` by `range` and return true, else return
// false. Ranges that overlap are neither expected nor joined.
template <typename Vector, typename Less, typename Extend>
void JoinAdjacent(Vector& ranges, Less less, Extend extend) {
  if (ranges.empty()) return;
  std::sort(ranges.begin(), ranges.end(), less);
  size_t last = 0;
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (!extend(ranges[last], ranges[i])) ranges[++last] = ranges[i];
  }
  ranges.erase(std::next(ranges.begin(), static_cast<ptrdiff_t>(last + 1)),
               ranges.end());
}

}  // namespace guestmm

#endif  // GUESTMM_BASE_JOIN_ADJACENT_H_
