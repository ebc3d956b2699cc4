#ifndef GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
#define GUESTMM_SRC_BUDDY_ZONE_LISTS_H_

// What the files that make up Zone have in common: its free lists, inlined.

#include "guestmm/buddy/zone.h"

namespace guestmm {

// Changes to the free lists that others see all at once, or not yet: which lists
// have a block is kept in a register meanwhile.
class Zone::ListChange {
 public:
  explicit ListChange(Zone& zone)
      : zone_(zone), lists_(zone.pages_.lists()), nonempty_(zone.nonempty_.Get()) {}
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

template <typename Visitor>
void Zone::ForEachBlock(PfnRange range, Visitor visit) const {
  for (Pfn pfn = range.start; pfn < range.end;) {
    const PageInfo info = pages_.Get(pfn);
    const bool hole =
        info.state == PageState::kOffline || info.state == PageState::kTail;
    if (!hole) visit(pfn, info);
    pfn += hole ? PageCount(1) : info.order.pages();
  }
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
