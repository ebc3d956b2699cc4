#ifndef GUESTMM_SRC_BUDDY_ZONE_LISTS_H_
#define GUESTMM_SRC_BUDDY_ZONE_LISTS_H_

// Free-list helpers shared by the sources of Zone.

#include <array>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {

// A batch of changes to the free lists. Keeps the bitmap of non-empty lists and
// the page counts in registers, and publishes them together. At most one exists
// per zone at a time. On hot paths it is inlined, and so are the functions that
// take it: from memory it would be reloaded after each store to an entry.
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

  // Takes the first block off a list that is not empty.
  [[gnu::always_inline]] Pfn TakeFirst(Order order, MigrateType type) {
    const PageMap::Index list = ListOf(order, type);
    const Pfn first(lists_.First(list));
    if (order == kMaxOrder) zone_.ListUntouchedAfter(first);
    if (lists_.RemoveFirst(list)) {
      nonempty_ &= ~(uint64_t{1} << Bit(order, type));
    }
    zone_.blocks_[static_cast<size_t>(order.value())].Subtract(1);
    return first;
  }

  // Adds a block to an empty list.
  [[gnu::always_inline]] void AddOnly(Pfn pfn, Order order, MigrateType type) {
    lists_.PushOnly(ListOf(order, type), pfn, order);
    nonempty_ |= uint64_t{1} << Bit(order, type);
    zone_.blocks_[static_cast<size_t>(order.value())].Add(1);
  }

  // Takes a free block off its list.
  [[gnu::always_inline]] void Remove(Pfn pfn, Order order) {
    if (order == kMaxOrder) {
      zone_.ListUntouched(pfn);
      zone_.ListUntouchedAfter(pfn);
    }
    RemoveBuddy(pfn, order);
  }

  // As Remove, of a block that may merge: one below kMaxOrder.
  [[gnu::always_inline]] void RemoveBuddy(Pfn pfn, Order order) {
    if (const PageMap::Index emptied = lists_.Remove(pfn)) [[unlikely]] {
      nonempty_ &= ~(uint64_t{1} << (emptied - first_list_));
    }
    zone_.blocks_[static_cast<size_t>(order.value())].Subtract(1);
  }

  // Keeps the reported mark (5.3: move_to_free_area; 6.1: move_to_free_list).
  [[gnu::always_inline]] void Move(Pfn pfn, Order order, MigrateType type) {
    const bool reported = zone_.pages_.IsReported(pfn);
    Remove(pfn, order);
    Add(pfn, order, type,
        zone_.cold_to_tail() ? ListEnd::kTail : ListEnd::kHead);
    if (reported) zone_.pages_.SetReported(pfn);
  }

  // Adjust the count of pages in free blocks of `type`. Separate from Add and
  // Remove, most of which only split and merge.
  [[gnu::always_inline]] void AddPages(MigrateType type, PageCount pages) {
    (type == MigrateType::kIsolate ? offlining_ : free_) += pages.value();
  }
  [[gnu::always_inline]] void SubtractPages(MigrateType type, PageCount pages) {
    (type == MigrateType::kIsolate ? offlining_ : free_) -= pages.value();
  }

  // One bit per order, from `smallest` up: set if there is a free block of that
  // order and `type`.
  [[gnu::always_inline]] uint64_t NonemptyOrders(MigrateType type,
                                                 Order smallest) const {
    return OrdersIn(nonempty_, type, smallest);
  }
  // The first block on a list; kNoPfn if it is empty.
  Pfn First(Order order, MigrateType type) const {
    const PageMap::Index list = ListOf(order, type);
    return lists_.Empty(list) ? kNoPfn : Pfn(lists_.First(list));
  }
  const PageMap::Lists& lists() const { return lists_; }

  // Makes the changes so far visible in the zone's counters.
  [[gnu::always_inline]] void Publish() {
    zone_.nonempty_.Set(nonempty_);
    zone_.free_pages_.Add(free_);
    if (offlining_ != 0) zone_.offlining_pages_.Add(offlining_);
    free_ = offlining_ = 0;
  }
  // Reads the zone's bitmap again, after another batch has changed it.
  void Reload() { nonempty_ = zone_.nonempty_.Get(); }

 private:
  PageMap::Index ListOf(Order order, MigrateType type) const {
    return first_list_ + static_cast<PageMap::Index>(Bit(order, type));
  }

  Zone& zone_;
  const PageMap::Lists lists_;
  const PageMap::Index first_list_;
  uint64_t nonempty_;
  // Changes to the counts, modulo 2^64.
  uint64_t free_ = 0;
  uint64_t offlining_ = 0;
};

[[gnu::always_inline]] inline void Zone::ListUntouchedAfter(Pfn pfn) const {
  const Pfn after = UntouchedAfter(pfn);
  if (after != kNoPfn) [[unlikely]]
    pages_.lists().InsertAfter(pfn, after, kMaxOrder);
}

// Free blocks that are not on their lists yet, in the order in which a batch
// freed them. Each is inside the buddy of the one before, so that a block that
// merges with any of them merges with the last one first; what a batch merges
// anyway is never listed. The list ends are chosen when the blocks are listed:
// until then nothing outside of the buddies changed.
//
// The last one is in registers, the others in an array of the caller's.
class Zone::Unlisted {
 public:
  // Each is smaller than the one before; below the first is no block.
  using Stack = std::array<uint64_t, kOrders + 2>;

  // `stack` may be unwritten.
  explicit Unlisted(Stack& stack) : end_(stack.data()) {}

  bool empty() const { return pfn_ == kNone; }
  // True if `pfn` is the last block. REQUIRES: `pfn` is the buddy of a block,
  // of any order, that is free or inside the buddy of the last one.
  bool LastIs(uint64_t pfn) const { return pfn == pfn_; }
  // True if `pfn` is inside the buddy of the last block.
  bool MayTake(Pfn pfn) const { return (pfn.value() ^ pfn_) >> order() == 1; }
  int order() const { return static_cast<int>(rest_ & 0xf); }
  void Push(Pfn pfn, Order order, MigrateType type) {
    *end_++ = pfn_ << kPfnShift | rest_;
    pfn_ = pfn.value();
    rest_ = static_cast<uint32_t>(static_cast<uint64_t>(type) << kTypeShift |
                                  order.bits());
  }
  void Pop() {
    const uint64_t block = *--end_;
    pfn_ = block >> kPfnShift;
    rest_ = static_cast<uint8_t>(block);
  }
  // Calls `visit(pfn, order, type)` for each, the first first; then there are
  // none. The analysis cannot see which lock `visit` requires.
  template <typename Visit>
  [[gnu::always_inline]] void TakeAll(const Stack& stack, Visit visit)
      ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (empty()) return;
    const uint64_t* at = stack.data() + 1;
    const uint64_t* const end = end_;
    *end_ = pfn_ << kPfnShift | rest_;
    do {
      visit(Pfn(*at >> kPfnShift), Order(static_cast<int>(*at & 0xf)),
            static_cast<MigrateType>(*at >> kTypeShift & 0xf));
    } while (at++ != end);
    end_ -= end - stack.data();
    pfn_ = kNone;
    rest_ = 0;
  }

 private:
  static constexpr int kTypeShift = 4;
  static constexpr int kPfnShift = 8;
  // No page's buddy, and inside of none.
  static constexpr uint64_t kNone = ~uint64_t{0} >> kPfnShift;

  uint64_t pfn_ = kNone;
  uint32_t rest_ = 0;
  uint64_t* end_;
};

// Visits each block in a range, skipping holes:
//
//   for (BlockWalk walk(pages, range); walk.Next();) Use(walk.pfn());
//
// The caller may change the current block. REQUIRES: the zone's lock is held.
class BlockWalk {
 public:
  BlockWalk(const PageMap& pages, PfnRange range)
      : pages_(pages), next_(range.start), end_(range.end) {}

  // Advances to the head of the next block. False at the end.
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
