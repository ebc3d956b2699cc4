#ifndef GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
#define GUESTMM_SRC_BUDDY_ZONE_LISTS_H_

// What the files that make up Zone have in common: its free lists, inlined.

#include "guestmm/buddy/zone.h"

namespace guestmm {

// Changes to the free lists that others see all at once, or not yet: which
// lists have a block is kept in a register meanwhile.
class Zone::ListChange {
 public:
  explicit ListChange(Zone& zone)
      : zone_(zone),
        lists_(zone.pages_.lists()),
        nonempty_(zone.nonempty_.Get()) {}
  ~ListChange() { zone_.nonempty_.Set(nonempty_); }
  ListChange(const ListChange&) = delete;
  ListChange& operator=(const ListChange&) = delete;

  [[gnu::always_inline]] void Add(Pfn pfn, Order order, MigrateType type,
                                  ListEnd end) {
    const int bit = Bit(order, type);
    const PageMap::Index list = zone_.lists_ + static_cast<PageMap::Index>(bit);
    if (end == ListEnd::kTail) {
      lists_.PushBack(list, pfn, order);
    } else {
      lists_.PushFront(list, pfn, order);
    }
    nonempty_ |= uint64_t{1} << bit;
    zone_.blocks_[static_cast<size_t>(order.value())].Add(1);
  }

  [[gnu::always_inline]] void Remove(Pfn pfn, Order order) {
    if (const PageMap::Index emptied = lists_.Remove(pfn)) {
      nonempty_ &= ~(uint64_t{1} << (emptied - zone_.lists_));
    }
    zone_.blocks_[static_cast<size_t>(order.value())].Subtract(1);
  }

  const PageMap::Lists& lists() const { return lists_; }

  // move_to_free_area in 5.3, move_to_free_list in 6.1.
  void Move(Pfn pfn, Order order, MigrateType type) {
    Remove(pfn, order);
    Add(pfn, order, type,
        zone_.cold_to_tail() ? ListEnd::kTail : ListEnd::kHead);
  }

 private:
  Zone& zone_;
  const PageMap::Lists lists_;
  uint64_t nonempty_;
};

// Goes from block to block in a range, holes passed over:
//
//   for (BlockWalk walk(pages, range); walk.Next();) Use(walk.pfn());
//
// The block it is at may be changed meanwhile. REQUIRES: the zone's lock.
class BlockWalk {
 public:
  BlockWalk(const PageMap& pages, PfnRange range)
      : pages_(pages), next_(range.start), end_(range.end) {}

  // Moves to the next head of a block. False at the end.
  bool Next() {
    while (next_ < end_) {
      pfn_ = next_;
      info_ = pages_.Get(pfn_);
      const bool head =
          info_.state != PageState::kOffline && info_.state != PageState::kTail;
      next_ += head ? info_.order.pages() : PageCount(1);
      if (head) return true;
    }
    return false;
  }
  Pfn pfn() const { return pfn_; }
  PageState state() const { return info_.state; }
  Order order() const { return info_.order; }

 private:
  const PageMap& pages_;
  Pfn next_;
  const Pfn end_;
  Pfn pfn_;
  PageInfo info_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
