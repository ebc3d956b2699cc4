#ifndef GUESTMM_BUDDY_ZONELIST_H_
#define GUESTMM_BUDDY_ZONELIST_H_

#include <memory>
#include <span>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// NUMA distances (SLIT): distances[a][b] is from node a to node b, 10 if a ==
// b.
using NodeDistances = std::vector<std::vector<int>>;

// The zones that a request tries, in order: those of the requested node, from
// the request's highest zone down, then those of the next nearest node, and so
// on. Zones without memory are left out (build_zonelists).
class Zonelists {
 public:
  // `zones`: by node, then by type, ascending; all types of each node.
  Zonelists(std::span<const std::unique_ptr<Zone>> zones,
            const NodeDistances& distances);

  bool operator==(const Zonelists&) const = default;

  // The zones for requests on `node` whose highest zone is `highest`. May be
  // empty.
  std::span<Zone* const> For(int node, ZoneType highest) const {
    return lists_[Index(node, highest)];
  }
  // As For, without other nodes' zones.
  std::span<Zone* const> OnlyFrom(int node, ZoneType highest) const {
    return For(node, highest).first(own_[Index(node, highest)]);
  }

 private:
  static size_t Index(int node, ZoneType highest) {
    return static_cast<size_t>(node) * kZoneTypes +
           static_cast<size_t>(highest);
  }

  std::vector<std::vector<Zone*>> lists_;
  // The number of leading zones of each list that are the node's own.
  std::vector<size_t> own_;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ZONELIST_H_
