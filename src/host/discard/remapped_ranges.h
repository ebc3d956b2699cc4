#ifndef GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_
#define GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_

#include <cstdint>
#include <map>
#include <set>

#include "guestmm/base/units.h"

namespace guestmm {

// The parts of guest RAM that were remapped, and the maximum number of mappings
// that they cause. Adjacent ranges become one mapping if the kernel can merge
// them, which it cannot if both were written to before they became adjacent.
//
//   |  file  |##|##|  file  |##########|  file  |
//            ^  ^  ^        ^          ^          boundaries: 5
//
// Not thread-safe. Ranges must not wrap.
class RemappedRanges {
 public:
  explicit RemappedRanges(uint64_t max_boundaries)
      : max_boundaries_(max_boundaries) {}

  // True if all of `range` was added, in one or more pieces.
  bool Contains(GpaRange range) const;
  // True if adding `range` keeps the number of boundaries within the limit, or
  // does not increase it.
  bool HasRoomFor(GpaRange range) const;
  void Add(GpaRange range);

 private:
  const uint64_t max_boundaries_;
  // Start to end: disjoint and not adjacent.
  std::map<Gpa, Gpa> ranges_;
  std::set<Gpa> boundaries_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_
