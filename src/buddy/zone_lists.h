#ifndef GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
#define GUESTMM_SRC_BUDDY_ZONE_LISTS_H_

// What the files that make up Zone have in common: its free lists, inlined.

#include "guestmm/buddy/zone.h"

namespace guestmm {

// Changes to the free lists that others see all at once, or not yet: meanwhile
// which lists have a block, and how many pages came or went, is kept in
// registers. One at a time. For the hot paths all of it, and what it is handed
// to, is inlined: in memory, it would be read again after each store to an
// entry.
class Zone::ListChange {
 public:
  explicit ListChange(Zone& zone)
      : zone_(zone),
        lists_(zone.pages_.lists()),
        first_list_(zone.lists_),
        nonempty_(zone.nonempty_.Get()) {}
  [[gnu::always_inline]] ~ListChange() { Publish(); }
  ListChange(const ListChange&) = delete;
  ListChange& operator=(const ListChange&) = delete;

  [[gnu::always_inline]] void Add(Pfn pfn, Order order, MigrateType type,
                                  ListEnd end) {
    lists_.Push(ListOf(order, type), pfn, order, end);
    nonempty_ |= uint64_t{1} << Bit(order, type);
    zone_.blocks_[static_cast<size_t>(order.value())].Add(1);
  }

  [[gnu::always_inline]] void Remove(Pfn pfn, Order order) {
    if (const PageMap::Index emptied = lists_.Remove(pfn)) [[unlikely]] {
      nonempty_ &= ~(uint64_t{1} << (emptied - first_list_));
    }
    zone_.blocks_[static_cast<size_t>(order.value())].Subtract(1);
  }

  // move_to_free_area in 5.3, move_to_free_list in 6.1. Keeps its mark.
  [[gnu::always_inline]] void Move(Pfn pfn, Order order, MigrateType type) {
    const bool reported = zone_.pages_.IsReported(pfn);
    Remove(pfn, order);
    Add(pfn, order, type,
        zone_.cold_to_tail() ? ListEnd::kTail : ListEnd::kHead);
    if (reported) zone_.pages_.SetReported(pfn);
  }

  // Pages that are more, or fewer, in free blocks of `type`. Apart from Add and
  // Remove, since most of those only split and merge.
  [[gnu::always_inline]] void AddPages(MigrateType type, PageCount pages) {
    (type == MigrateType::kIsolate ? offlining_ : free_) += pages.value();
  }
  [[gnu::always_inline]] void SubtractPages(MigrateType type, PageCount pages) {
    (type == MigrateType::kIsolate ? offlining_ : free_) -= pages.value();
  }

  // The orders that have a free block of `type`, a bit each.
  uint64_t NonemptyOrders(MigrateType type) const {
    return nonempty_ >> Bit(Order(0), type) & kAllOrders;
  }
  // The first block on a list, or kNoPfn.
  Pfn First(Order order, MigrateType type) const {
    const PageMap::Index list = ListOf(order, type);
    return lists_.Empty(list) ? kNoPfn : Pfn(lists_.First(list));
  }
  const PageMap::Lists& lists() const { return lists_; }

  // Lets others see what changed so far; sees what they changed after that.
  [[gnu::always_inline]] void Publish() {
    zone_.nonempty_.Set(nonempty_);
    zone_.free_pages_.Add(free_);
    if (offlining_ != 0) zone_.offlining_pages_.Add(offlining_);
    free_ = offlining_ = 0;
  }
  void Reload() { nonempty_ = zone_.nonempty_.Get(); }

 private:
  PageMap::Index ListOf(Order order, MigrateType type) const {
    return first_list_ + static_cast<PageMap::Index>(Bit(order, type));
  }

  Zone& zone_;
  const PageMap::Lists lists_;
  const PageMap::Index first_list_;
  uint64_t nonempty_;
  // More than before; modulo 2^64, fewer.
  uint64_t free_ = 0;
  uint64_t offlining_ = 0;
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
