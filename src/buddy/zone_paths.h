#ifndef GUESTMM_SRC_BUDDY_ZONE_PATHS_H_
#define GUESTMM_SRC_BUDDY_ZONE_PATHS_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "guestmm/buddy/zone.h"
#include "src/buddy/zone_lists.h"

namespace guestmm {

// How a zone splits and merges blocks. Inlined wherever it is used, so that an
// order that is constant there shortens it. REQUIRES for all: the zone's lock.
class ZonePaths {
 public:
  // As Zone::Take and Zone::Free, for PageAllocator. `pageblock` is that of the
  // block, as read before the lock was taken.
  static Pfn Take(Zone& zone, Order order, MigrateType type, Mixing mixing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  static FreeBlockObserver* Free(Zone& zone, Pfn pfn, Order order,
                                 const PageMap::Blocks& blocks,
                                 PageMap::Blocks::PageblockRead pageblock)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);

 private:
  friend class Zone;
  using Block = Zone::Block;
  using ListChange = Zone::ListChange;
  using Unlisted = Zone::Unlisted;

  // Takes up to `most` adjacent blocks, from `first` on, out of the first block
  // of the smallest of `orders`: one bit for each that has one, all at least
  // `order`, at least one set. Returns their number. The caller writes their
  // states and subtracts their pages.
  static size_t Split(ListChange& change, uint64_t orders, Order order,
                      MigrateType type, size_t most, Pfn& first);
  // Counts a block that was taken, and makes it allocated.
  static void Finish(Zone& zone, ListChange& change, Pfn pfn, Order order,
                     MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);

  // Merges an off-list block with its buddies, on lists and in `unlisted`,
  // which may be null. The caller lists the result.
  static Block MergeUnlisted(Zone& zone, ListChange& change, Unlisted* unlisted,
                             Pfn freed, Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  // As MergeUnlisted, and lists the result, at the tail or at EndFor.
  static Block Merge(Zone& zone, ListChange& change, Pfn pfn, Order order,
                     MigrateType type, bool to_tail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  static ListEnd EndFor(Zone& zone, const PageMap::Lists& lists, Pfn pfn,
                        Order order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  // True if the block at `pfn`, of at least a pageblock, may merge with its
  // buddy: in one zone, and both or neither being offlined.
  static bool MayMergePageblocks(const Zone& zone, Pfn pfn, Order order,
                                 MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  // Frees a block that was found to be allocated; notifies the observer only if
  // `tell`.
  static FreeBlockObserver* MergeAllocated(Zone& zone, Pfn pfn, Order order,
                                           MigrateType type, bool tell)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
  // Notifies the observer of a block that was freed and listed. As Zone::Free.
  static FreeBlockObserver* Tell(Zone& zone, ListChange& change, Block freed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock_);
};

// Allocating -----------------------------------------------------------------

[[gnu::always_inline]] inline size_t ZonePaths::Split(ListChange& change,
                                                      uint64_t orders,
                                                      Order order,
                                                      MigrateType type,
                                                      size_t most, Pfn& first) {
  const Order found(std::countr_zero(orders));
  first = change.TakeFirst(found, type);
  // The lists in between are empty. So with block after block the lower half of
  // what is left would be split, and its upper half taken again: what is taken
  // is adjacent, and what stays are the upper halves.
  const uint64_t in_block = found.pages().value() >> order.value();
  const uint64_t taken = most < in_block ? most : in_block;
  uint64_t at = taken << order.value();
  for (const uint64_t end = found.pages().value(); at < end; at += at & -at) {
    change.AddOnly(first + PageCount(at), Order(std::countr_zero(at)), type);
  }
  return static_cast<size_t>(taken);
}

[[gnu::always_inline]] inline void ZonePaths::Finish(Zone& zone,
                                                     ListChange& change,
                                                     Pfn pfn, Order order,
                                                     MigrateType type) {
  change.SubtractPages(type, order.pages());
  zone.allocations_.Add(1);
  zone.allocated_pages_.Add(order.pages().value());
  zone.pages_.SetAllocated(pfn, order, type);
}

[[gnu::always_inline]] inline Pfn ZonePaths::Take(Zone& zone, Order order,
                                                  MigrateType type,
                                                  Mixing mixing) {
  const uint64_t orders = Zone::OrdersIn(zone.nonempty_.Get(), type, order);
  const bool watched =
      zone.taken_observer_ != nullptr || zone.use_observer_ != nullptr;
  if (orders == 0 || watched) [[unlikely]]
    return zone.Take(order, type, mixing);
  ListChange change(zone);
  Pfn pfn;
  Split(change, orders, order, type, 1, pfn);
  Finish(zone, change, pfn, order, type);
  return pfn;
}

// Freeing --------------------------------------------------------------------

[[gnu::always_inline]] inline bool ZonePaths::MayMergePageblocks(
    const Zone& zone, Pfn pfn, Order order, MigrateType type) {
  const PageMap::Pageblock buddy = zone.pages_.pageblock(pfn.Buddy(order));
  if (buddy.zone != zone.options_.index) return false;
  if (zone.isolate_pageblocks_ == 0 || buddy.type == type) [[likely]]
    return true;
  return type != MigrateType::kIsolate && buddy.type != MigrateType::kIsolate;
}

[[gnu::always_inline]] inline ListEnd ZonePaths::EndFor(
    Zone& zone, const PageMap::Lists& lists, Pfn pfn, Order order) {
  if (order.value() >= zone.max_order().value() - 1) [[unlikely]] {
    const bool shuffled = zone.shuffle_ && order == zone.max_order();
    return shuffled && zone.shuffle_->OneIn(2) ? ListEnd::kTail
                                               : ListEnd::kHead;
  }
  // If the merged pair's own buddy is already free, this block's buddy is
  // likely to be freed soon. The block then goes to the tail, so that it is
  // still free by then (buddy_merge_likely).
  const Order above(order.value() + 1);
  const Pfn other = pfn.AlignDown(above).Buddy(above);
  bool likely = lists.IsFree(other, above);
  if (above >= zone.pageblock_order()) likely = likely && zone.IsOurs(other);
  return static_cast<ListEnd>(likely);
}

[[gnu::always_inline]] inline ZonePaths::Block ZonePaths::MergeUnlisted(
    Zone& zone, ListChange& change, Unlisted* unlisted, Pfn freed, Order order,
    MigrateType type) {
  const PageMap::Lists lists = change.lists();
  const int max = zone.max_order().value();
  const int pageblock = zone.pageblock_order().value();
  uint64_t pfn = freed.value();
  int at = order.value();
  for (uint64_t half = order.pages().value(); at < max; half <<= 1, ++at) {
    const uint64_t buddy = pfn ^ half;
    const bool is_unlisted = unlisted != nullptr && unlisted->LastIs(buddy);
    if (!is_unlisted && !lists.IsFree(Pfn(buddy), Order(at))) break;
    if (at >= pageblock && !MayMergePageblocks(zone, Pfn(pfn), Order(at), type))
        [[unlikely]] {
      break;
    }
    if (is_unlisted) {
      unlisted->Pop();
    } else {
      change.RemoveBuddy(Pfn(buddy), Order(at));
    }
    // Branch-free, since which of the two is the lower is hard to predict.
    lists.SetTail(Pfn(pfn | half));
    pfn &= ~half;
  }
  change.AddPages(type, order.pages());
  return {.pfn = Pfn(pfn), .order = Order(at)};
}

[[gnu::always_inline]] inline ZonePaths::Block ZonePaths::Merge(
    Zone& zone, ListChange& change, Pfn pfn, Order order, MigrateType type,
    bool to_tail) {
  const Block merged = MergeUnlisted(zone, change, nullptr, pfn, order, type);
  change.Add(merged.pfn, merged.order, type,
             to_tail ? ListEnd::kTail
                     : EndFor(zone, change.lists(), merged.pfn, merged.order));
  return merged;
}

[[gnu::always_inline]] inline FreeBlockObserver* ZonePaths::Tell(
    Zone& zone, ListChange& change, Block freed) {
  if (freed.order.value() < zone.observer_min_order_) [[likely]]
    return nullptr;
  change.Publish();
  return zone.observer_->OnBlockFreed(zone, freed.pfn, freed.order)
             ? zone.observer_
             : nullptr;
}

[[gnu::always_inline]] inline FreeBlockObserver* ZonePaths::MergeAllocated(
    Zone& zone, Pfn pfn, Order order, MigrateType type, bool tell) {
  zone.freed_pages_.Add(order.pages().value());
  ListChange change(zone);
  const Block freed = Merge(zone, change, pfn, order, type, /*to_tail=*/false);
  return tell ? Tell(zone, change, freed) : nullptr;
}

[[gnu::always_inline]] inline FreeBlockObserver* ZonePaths::Free(
    Zone& zone, Pfn pfn, Order order, const PageMap::Blocks& blocks,
    PageMap::Blocks::PageblockRead pageblock) {
  // While a pageblock is isolated, its type and its zone may change.
  const bool plain =
      zone.isolate_pageblocks_ == 0 && zone.use_observer_ == nullptr;
  if (!plain || !pageblock.holds() || !blocks.IsAllocated(pfn, order))
      [[unlikely]] {
    return zone.Free(pfn, order);
  }
  return MergeAllocated(zone, pfn, order, pageblock.value().type,
                        /*tell=*/true);
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_BUDDY_ZONE_PATHS_H_
