#ifndef GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_
#define GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_

#include <cstdint>
#include <map>
#include <set>

#include "guestmm/base/units.h"

namespace guestmm {

// What of guest RAM was mapped anew, and how many mappings that makes at most:
// neighbours become one where the kernel can merge them, which it cannot if
// both were written to before they met.
//
//   |  file  |##|##|  file  |##########|  file  |
//            ^  ^  ^        ^          ^          boundaries: 5
//
// Not for two threads at a time. Ranges do not wrap.
class RemappedRanges {
 public:
  explicit RemappedRanges(uint64_t max_boundaries)
      : max_boundaries_(max_boundaries) {}

  // Whether all of it was added, in whatever pieces.
  bool Contains(GpaRange range) const;
  // Whether with `range` there would be no more boundaries than the limit, or
  // than there are.
  bool HasRoomFor(GpaRange range) const;
  void Add(GpaRange range);

 private:
  const uint64_t max_boundaries_;
  // Start to end, disjoint, not side by side.
  std::map<Gpa, Gpa> ranges_;
  std::set<Gpa> boundaries_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_DISCARD_REMAPPED_RANGES_H_
