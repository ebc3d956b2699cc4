#ifndef GUESTMM_BUDDY_PAGE_MAP_LISTS_H_
#define GUESTMM_BUDDY_PAGE_MAP_LISTS_H_

#include <atomic>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_map.h"

namespace GUESTMM_EXPORT guestmm {

// The list operations of a page map. A separate value, to be kept in a local
// variable: the compiler must assume that a store to an entry changes the
// members through which entries are found.
//
// REQUIRES for all: the caller holds the lock of the zone that owns the list.
class PageMap::Lists {
 public:
  Lists(uint8_t* states, Entry* entries) : states_(states), entries_(entries) {}

  // Makes `pfn` the head of a free block and inserts it into `list`. Branch-
  // free, since `end` is hard to predict.
  [[gnu::always_inline]] void Push(Index list, Pfn pfn, Order order,
                                   ListEnd end) const {
    const Index first = Next(list);
    const Index last = Prev(list);
    const Index tail = end == ListEnd::kTail ? ~Index{0} : 0;
    const auto at = static_cast<Index>(pfn.value());
    std::atomic_ref(states_[at])
        .store(State(kFree, order), std::memory_order_relaxed);
    Link(list ^ ((list ^ last) & tail), at);
    Link(at, first ^ ((first ^ list) & tail));
  }
  // Makes `pfn` the head of a free block and inserts it after `at`, a list head
  // or an element.
  void InsertAfter(Pfn at, Pfn pfn, Order order) const {
    std::atomic_ref(states_[pfn.value()])
        .store(State(kFree, order), std::memory_order_relaxed);
    const auto before = static_cast<Index>(at.value());
    const auto inserted = static_cast<Index>(pfn.value());
    const Index next = Next(before);
    Link(before, inserted);
    Link(inserted, next);
  }
  // As Push, into an empty list.
  [[gnu::always_inline]] void PushOnly(Index list, Pfn pfn, Order order) const {
    const auto at = static_cast<Index>(pfn.value());
    std::atomic_ref(states_[at])
        .store(State(kFree, order), std::memory_order_relaxed);
    Link(list, at);
    Link(at, list);
  }
  // Takes the first block off `list`, which is not empty. True if it then is.
  [[gnu::always_inline]] bool RemoveFirst(Index list) const {
    const Index next = Next(First(list));
    Link(list, next);
    return next == list;
  }
  // Takes a free block off its list. Returns the list if that is now empty,
  // else 0. The caller writes the block's state.
  [[gnu::always_inline]] Index Remove(Pfn pfn) const {
    const auto at = static_cast<Index>(pfn.value());
    const Index next = Next(at);
    const Index prev = Prev(at);
    Link(prev, next);
    return next == prev ? next : 0;
  }
  // Prefetches the entry that Push(pfn) will write.
  [[gnu::always_inline]] void PrefetchOwn(Pfn pfn) const {
    __builtin_prefetch(&entries_[pfn.value()], /*rw=*/1);
  }
  // Prefetches the entries that Remove(pfn) will write.
  [[gnu::always_inline]] void PrefetchNeighbours(Pfn pfn) const {
    const auto at = static_cast<Index>(pfn.value());
    __builtin_prefetch(&entries_[Next(at)], /*rw=*/1);
    __builtin_prefetch(&entries_[Prev(at)], /*rw=*/1);
  }
  [[gnu::always_inline]] bool IsFree(Pfn pfn, Order order) const {
    return PageMap::IsFree(
        std::atomic_ref(states_[pfn.value()]).load(std::memory_order_relaxed),
        order);
  }
  [[gnu::always_inline]] void SetTail(Pfn pfn) const {
    std::atomic_ref(states_[pfn.value()])
        .store(kTail, std::memory_order_relaxed);
  }
  [[gnu::always_inline]] bool Empty(Index list) const {
    return Next(list) == list;
  }
  // The list's first element, and the elements after and before `at`; `list` at
  // either end.
  [[gnu::always_inline]] Index First(Index list) const { return Next(list); }
  [[gnu::always_inline]] Index Next(Index at) const {
    return std::atomic_ref(entries_[at].next).load(std::memory_order_relaxed);
  }
  [[gnu::always_inline]] Index Prev(Index at) const {
    return std::atomic_ref(entries_[at].prev_or_pins)
        .load(std::memory_order_relaxed);
  }
  // Rotates `list` so that `first`, one of its elements, is at the head.
  void RotateToFront(Index list, Pfn first) const;

 private:
  friend class PageMap;

  [[gnu::always_inline]] void Link(Index prev, Index next) const {
    std::atomic_ref(entries_[prev].next).store(next, std::memory_order_relaxed);
    std::atomic_ref(entries_[next].prev_or_pins)
        .store(prev, std::memory_order_relaxed);
  }

  uint8_t* states_;
  Entry* entries_;
};

[[gnu::always_inline]] inline PageMap::Lists PageMap::lists() const {
  return Lists(states_, entries_);
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_MAP_LISTS_H_
