#include "src/host/discard/remapped_ranges.h"

#include <algorithm>
#include <iterator>

namespace guestmm {

bool RemappedRanges::Contains(GpaRange range) const {
  const auto after = ranges_.upper_bound(range.gpa);
  return after != ranges_.begin() &&
         range.gpa + range.bytes <= std::prev(after)->second;
}

bool RemappedRanges::HasRoomFor(GpaRange range) const {
  const Gpa end = range.gpa + range.bytes;
  const auto inside = std::distance(boundaries_.upper_bound(range.gpa),
                                    boundaries_.lower_bound(end));
  const uint64_t now = boundaries_.size();
  const uint64_t then = now - static_cast<uint64_t>(inside) +
                        (boundaries_.contains(range.gpa) ? 0 : 1) +
                        (boundaries_.contains(end) ? 0 : 1);
  return then <= std::max(now, max_boundaries_);
}

void RemappedRanges::Add(GpaRange range) {
  Gpa start = range.gpa;
  Gpa end = range.gpa + range.bytes;
  boundaries_.erase(boundaries_.upper_bound(start),
                    boundaries_.lower_bound(end));
  boundaries_.insert(start);
  boundaries_.insert(end);

  // From the first to the last range that it touches.
  auto first = ranges_.upper_bound(start);
  if (first != ranges_.begin() && std::prev(first)->second >= start) --first;
  const auto last = ranges_.upper_bound(end);
  if (first != last) {
    start = std::min(start, first->first);
    end = std::max(end, std::prev(last)->second);
  }
  ranges_.erase(first, last);
  ranges_.emplace(start, end);
}

}  // namespace guestmm
