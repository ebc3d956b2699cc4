#ifndef GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
#define GUESTMM_SRC_BUDDY_ZONE_LISTS_H_

// What the files that make up Zone have in common: its free lists, inlined.

#include "guestmm/buddy/zone.h"

namespace guestmm {

inline void Zone::AddToList(Pfn pfn, Order order, MigrateType type,
                            ListEnd end) {
  const int bit = Bit(order, type);
  const PageMap::Index list = lists_ + static_cast<PageMap::Index>(bit);
  if (end == ListEnd::kTail) {
    pages_.PushBack(list, pfn, order);
  } else {
    pages_.PushFront(list, pfn, order);
  }
  nonempty_.Set(nonempty_.Get() | uint64_t{1} << bit);
  blocks_[static_cast<size_t>(order.value())].Add(1);
}

inline void Zone::TakeOffList(Pfn pfn, Order order) {
  if (const PageMap::Index emptied = pages_.Remove(pfn)) {
    nonempty_.Set(nonempty_.Get() & ~(uint64_t{1} << (emptied - lists_)));
  }
  blocks_[static_cast<size_t>(order.value())].Subtract(1);
}

// move_to_free_area in 5.3, move_to_free_list in 6.1.
inline void Zone::MoveToList(Pfn pfn, Order order, MigrateType type) {
  TakeOffList(pfn, order);
  AddToList(pfn, order, type,
            cold_to_tail() ? ListEnd::kTail : ListEnd::kHead);
}

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
