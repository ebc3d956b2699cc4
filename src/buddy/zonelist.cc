#include "guestmm/buddy/zonelist.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace guestmm {

Zonelists::Zonelists(std::span<const std::unique_ptr<Zone>> zones,
                     const NodeDistances& distances) {
  const int nodes = static_cast<int>(distances.size());
  for (int node = 0; node < nodes; ++node) {
    std::vector<int> order(distances.size());
    std::iota(order.begin(), order.end(), 0);
    // Among equally near nodes, the next higher one first
    // (find_next_best_node).
    const auto& from_here = distances[static_cast<size_t>(node)];
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      const auto key = [&](int n) {
        return std::tuple(n != node, from_here[static_cast<size_t>(n)],
                          n < node, n);
      };
      return key(a) < key(b);
    });
    for (int highest = 0; highest < kZoneTypes; ++highest) {
      std::vector<Zone*> list;
      size_t own = 0;
      for (const int n : order) {
        for (int type = highest; type >= 0; --type) {
          Zone& zone = *zones[static_cast<size_t>(n) * kZoneTypes +
                              static_cast<size_t>(type)];
          if (zone.managed_pages() > PageCount(0)) list.push_back(&zone);
        }
        if (n == node) own = list.size();
      }
      lists_.push_back(std::move(list));
      own_.push_back(own);
    }
  }
}

}  // namespace guestmm
