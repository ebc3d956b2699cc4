#ifndef GUESTMM_BUDDY_ZONELIST_H_
#define GUESTMM_BUDDY_ZONELIST_H_

#include <memory>
#include <span>
#include <vector>

#include "guestmm/buddy/zone.h"
#include "guestmm/frame/zone_type.h"

namespace guestmm {

// How far apart nodes are (SLIT): 10 is local. distances[a][b]: from a to b.
using NodeDistances = std::vector<std::vector<int>>;

// Where a request looks, and in what order: the zones of the node asked for,
// from the highest it may use down, then those of the next nearest node, and so
// on; only zones that have memory (build_zonelists).
class Zonelists {
 public:
  // `zones`: of each node all types, ascending.
  Zonelists(std::span<const std::unique_ptr<Zone>> zones,
            const NodeDistances& distances);

  bool operator==(const Zonelists&) const = default;

  // For requests that may use zones up to `highest`. May be empty.
  std::span<Zone* const> For(int node, ZoneType highest) const {
    return lists_[Index(node, highest)];
  }
  // The same without other nodes' zones.
  std::span<Zone* const> OnlyFrom(int node, ZoneType highest) const {
    return For(node, highest).first(own_[Index(node, highest)]);
  }

 private:
  static size_t Index(int node, ZoneType highest) {
    return static_cast<size_t>(node) * kZoneTypes +
           static_cast<size_t>(highest);
  }

  std::vector<std::vector<Zone*>> lists_;
  // How many of a list's zones are the node's own.
  std::vector<size_t> own_;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONELIST_H_
