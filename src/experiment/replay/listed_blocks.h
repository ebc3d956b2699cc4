#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_LISTED_BLOCKS_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_LISTED_BLOCKS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/ram/zeroed_array.h"

namespace guestmm {

// The blocks in the per-CPU lists of a guest. Each is in one list; its page
// finds it, and it leaves its list without a search:
//
//   by page   [ - | 7 | - | - | 9 | ... ]
//   nodes     list ⇄ 9 ⇄ 7 ⇄ list      newest to oldest
class ListedBlocks {
 public:
  // Of a block, or of a list. None is 0.
  using Index = uint32_t;
  static constexpr Index kNone = 0;

  struct Block {
    Pfn pfn;
    Order order;
    // The list it is in. For use by the list's owner.
    Index list = kNone;
    bool assumed = false;
    // The order of the free block, marked as reported, that it was the head of
    // when it was assumed.
    std::optional<Order> reported = {};
  };

  // Of pages below `end`; there are none.
  explicit ListedBlocks(Pfn end) : by_page_(end.value()) {
    nodes_.emplace_back();
  }

  // Makes an empty list.
  Index MakeList() {
    const auto list = static_cast<Index>(nodes_.size());
    nodes_.push_back({.block = {}, .newer = list, .older = list});
    return list;
  }

  // REQUIRES for all below: pages are below the end.

  // The block that begins at `pfn`; kNone if it is not listed.
  Index Find(Pfn pfn) const { return by_page_[pfn.value()]; }
  bool Has(Pfn pfn) const { return Find(pfn) != kNone; }
  // REQUIRES: `at` is a block, for both.
  Block& operator[](Index at) { return nodes_[at].block; }
  const Block& operator[](Index at) const { return nodes_[at].block; }

  // Add a block to `list`. REQUIRES: its page is not listed.
  void AddNewest(Index list, Pfn pfn, Order order) {
    Add(list, pfn, order, list, nodes_[list].older);
  }
  void AddOldest(Index list, Pfn pfn, Order order) {
    Add(list, pfn, order, nodes_[list].newer, list);
  }
  // Takes a block off its list, and returns it.
  Block Remove(Index at) {
    Node& node = nodes_[at];
    nodes_[node.newer].older = node.older;
    nodes_[node.older].newer = node.newer;
    by_page_[node.block.pfn.value()] = kNone;
    node.newer = unused_;
    unused_ = at;
    return node.block;
  }

  // A list's oldest block; kNone if it is empty.
  Index Oldest(Index list) const {
    const Index oldest = nodes_[list].newer;
    return oldest == list ? kNone : oldest;
  }

 private:
  // A list is a ring, which begins and ends with the list's own node: its
  // `older` is its newest block.
  struct Node {
    Block block;
    Index newer;
    Index older;
  };

  void Add(Index list, Pfn pfn, Order order, Index newer, Index older) {
    Index at = unused_;
    if (at != kNone) {
      unused_ = nodes_[at].newer;
    } else {
      at = static_cast<Index>(nodes_.size());
      nodes_.emplace_back();
    }
    nodes_[at] = {.block = {.pfn = pfn, .order = order, .list = list},
                  .newer = newer,
                  .older = older};
    nodes_[newer].older = at;
    nodes_[older].newer = at;
    by_page_[pfn.value()] = at;
  }

  ZeroedArray<Index> by_page_;
  std::vector<Node> nodes_;
  // The first node to be used again; those behind it by `newer`.
  Index unused_ = kNone;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_LISTED_BLOCKS_H_
