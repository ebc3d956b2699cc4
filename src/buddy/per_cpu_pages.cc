#include "guestmm/buddy/per_cpu_pages.h"

#include <algorithm>
#include <bit>
#include <sstream>

#include "guestmm/base/check.h"

namespace guestmm {

uint32_t PerCpuPages::CachedOrders(KernelVersion version,
                                   Order pageblock_order) {
  if (version == KernelVersion::kV5_3) return 1;
  return ((1U << PerCpuLists::kSmallOrders) - 1) |
         1U << pageblock_order.value();
}

PerCpuPages::PerCpuPages(Zone& zone, PageMap& pages, KernelVersion version,
                         PerCpuLimits limits)
    : marks_(version, limits),
      zone_(zone),
      blocks_(pages.blocks()),
      version_(version),
      zone_index_(static_cast<uint8_t>(zone.index())),
      pages_(pages) {
  for (size_t i = 0; i < kLists; ++i) {
    orders_[i] = PerCpuLists::OrderOf(i, pages.pageblock_order());
  }
  VisitorHolder hold(lock_);
  MakeWindows();
}

void PerCpuPages::MakeWindows() {
  const PerCpuLimits& limits = marks_.limits();
  const uint64_t pages =
      uint64_t{std::max(limits.high, limits.high_max)} + limits.batch;
  const uint32_t orders = CachedOrders(version_, pages_.pageblock_order());
  for (size_t i = 0; i < kLists; ++i) {
    const int order = OrderOf(i).value();
    if ((orders >> order & 1) == 0) continue;
    // Above the high mark there may be one more block, and a refill, which is
    // of at least two.
    lists_[i].window.Reserve((pages >> order) + 4);
  }
  in_use_.Set(0);
}

inline uint64_t PerCpuPages::Count() const {
  uint64_t pages = 0;
  ForEachInUse([&](size_t index, const List& list) {
    pages += list.window.size() << OrderOf(index).value();
  });
  return pages;
}

void PerCpuPages::ShareRoom(uint64_t count) {
  const uint64_t high = marks_.high();
  // A free that reaches the mark takes a closer look. A refill may have passed
  // it.
  uint64_t share = count < high ? high - 1 - count : 0;
  if ((filling_ & (filling_ - 1)) != 0) {
    share /= static_cast<uint64_t>(std::popcount(filling_));
  }
  uint64_t in_use = in_use_.Get();
  for (uint64_t left = in_use; left != 0; left &= left - 1) {
    const auto index = static_cast<size_t>(std::countr_zero(left));
    BlockWindow& window = lists_[index].window;
    if (count >= high) {
      window.Close();
    } else {
      const bool filling = (filling_ >> index & 1) != 0;
      window.SetRoom(filling ? share >> OrderOf(index).value() : 0);
    }
    if (window.empty() && !window.HasRoom()) in_use &= ~(uint64_t{1} << index);
  }
  in_use_.Set(in_use);
}

FreeBlockObserver* PerCpuPages::SetLimits(PerCpuLimits limits) {
  VisitorHolder hold(lock_);
  if (limits == marks_.limits()) return nullptr;
  FreeBlockObserver* const to_wake = DrainHeld();
  marks_.SetLimits(limits);
  MakeWindows();
  return to_wake;
}

PerCpuLimits PerCpuPages::limits() const {
  VisitorHolder hold(lock_);
  return marks_.limits();
}

uint32_t PerCpuPages::high() const {
  VisitorHolder hold(lock_);
  return marks_.high();
}

Pfn PerCpuPages::Take(Order order, MigrateType type, Mixing mixing) {
  LockHolder hold(lock_);
  return TakeHeld(order, type, mixing);
}

Pfn PerCpuPages::TakeHeld(Order order, MigrateType type, Mixing mixing) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  marks_.OnAllocate();
  if (lists_[index].window.empty() && !Refill(index, type, mixing)) {
    return kNoPfn;
  }
  return Pop(lists_[index], order, type);
}

FreeBlockObserver* PerCpuPages::Free(Pfn pfn, Order order) {
  LockHolder hold(lock_);
  const PageMap::Pageblock pageblock = pages_.pageblock(pfn);
  if (!IsOurs(pfn, order, pageblock)) return FreeUncached(pfn, order);
  const size_t index = PerCpuLists::IndexOf(order, pageblock.type);
  const uint64_t own = order.pages().value();
  uint64_t count = Count() + own;
  const uint64_t pages = marks_.PagesToReturn(order, count, zone_.pressure());
  blocks_.SetCached(pfn, order);
  lists_[index].window.PushSlow(pfn);
  const uint32_t bit = uint32_t{1} << index;
  in_use_.Set(in_use_.Get() | bit);
  FreeBlockObserver* to_wake = nullptr;
  if (pages > 0) {
    filling_ = 0;
    const bool one_for_one = pages <= own && version_ != KernelVersion::kV5_3;
    to_wake = one_for_one ? ReturnOldest(index) : ReturnToZone(pages, index);
    zone_.NoteReturned();
    count = one_for_one ? count - own : Count();
    // The room that the lists have stays true, unless the mark has moved.
    if (one_for_one && version_ == KernelVersion::kV6_1) {
      filling_ = bit;
      return to_wake;
    }
  }
  filling_ |= bit;
  ShareRoom(count);
  return to_wake;
}

inline Zone::CachedRun PerCpuPages::TakeOldest(size_t index, uint64_t blocks) {
  return {.blocks = lists_[index].window.TakeOldest(blocks),
          .order = OrderOf(index),
          .type = index < PerCpuLists::kPageblockLists
                      ? std::optional(static_cast<MigrateType>(
                            index % static_cast<size_t>(kRequestTypes)))
                      : std::nullopt};
}

FreeBlockObserver* PerCpuPages::ReturnOldest(size_t index) {
  const Zone::CachedRun run = TakeOldest(index, 1);
  LockHolder hold_zone(zone_.lock());
  return zone_.FreeCached(run);
}

bool PerCpuPages::Refill(size_t index, MigrateType type, Mixing mixing) {
  const Order order = OrderOf(index);
  const uint64_t wanted =
      marks_.BlocksToRefill(order, Count(), zone_.pressure());
  const size_t taken =
      lists_[index].window.Fill(wanted, [&](std::span<Pfn> blocks) {
        LockHolder hold_zone(zone_.lock());
        return zone_.AllocateBulk(blocks, order, type, mixing);
      });
  in_use_.Set(in_use_.Get() | uint64_t{1} << index);
  ShareRoom(Count());
  return taken > 0;
}

FreeBlockObserver* PerCpuPages::FreeUncached(Pfn pfn, Order order) {
  LockHolder hold_zone(zone_.lock());
  return zone_.Free(pfn, order);
}

FreeBlockObserver* PerCpuPages::Drain() {
  VisitorHolder hold(lock_);
  return DrainHeld();
}

FreeBlockObserver* PerCpuPages::DrainHeld() {
  FreeBlockObserver* const to_wake = ReturnToZone(Count(), /*first_list=*/0);
  filling_ = 0;
  ShareRoom(Count());
  return to_wake;
}

// The kernel counts in pages, but returns whole blocks, so a list that holds
// pageblocks loses one with each batch.
FreeBlockObserver* PerCpuPages::Decay() {
  VisitorHolder hold(lock_);
  FreeBlockObserver* to_wake = nullptr;
  uint64_t left = marks_.Decay(Count());
  while (left > 0 && Count() > 0) {
    const uint64_t batch = std::min<uint64_t>(left, marks_.limits().batch);
    if (FreeBlockObserver* observer = ReturnToZone(batch, /*first_list=*/0)) {
      to_wake = observer;
    }
    left -= batch;
  }
  ShareRoom(Count());
  return to_wake;
}

FreeBlockObserver* PerCpuPages::ReturnToZone(uint64_t pages,
                                             size_t first_list) {
  if (pages == 0) return nullptr;
  batch_.clear();
  if (version_ == KernelVersion::kV5_3) {
    Pick53(pages);
  } else {
    Pick61(pages, first_list);
  }
  if (batch_.size() > 1 || batch_.front().blocks.size() > 1) {
    zone_.PrefetchForFree(batch_);
  }
  LockHolder hold_zone(zone_.lock());
  return zone_.FreeBulk(batch_);
}

// free_pcppages_bulk: round-robin over the lists; each empty list that is
// skipped adds one block to the next list's turn, so that full lists return
// more.
void PerCpuPages::Pick53(uint64_t pages) {
  uint64_t left = pages;
  uint64_t turn = 0;
  size_t list = 0;
  while (left > 0) {
    do {
      ++turn;
      if (++list == kRequestTypes) list = 0;
    } while (lists_[list].window.empty());
    // All other lists are empty.
    if (turn == kRequestTypes) turn = left;
    const uint64_t picked =
        std::min<uint64_t>({left, turn, lists_[list].window.size()});
    batch_.push_back(TakeOldest(list, picked));
    left -= picked;
    turn -= picked;
  }
}

// free_pcppages_bulk of 6.1: empties one list after the other, beginning with
// the one that was freed to.
void PerCpuPages::Pick61(uint64_t pages, size_t first_list) {
  uint64_t left = pages;
  for (size_t i = 0; i < kLists && left > 0; ++i) {
    const size_t list =
        first_list + i < kLists ? first_list + i : first_list + i - kLists;
    if (lists_[list].window.empty()) continue;
    const uint64_t each = OrderOf(list).pages().value();
    const uint64_t wanted = (left + each - 1) / each;
    const uint64_t picked =
        std::min<uint64_t>(wanted, lists_[list].window.size());
    batch_.push_back(TakeOldest(list, picked));
    left -= std::min(left, picked * each);
  }
}

AllocationEvents PerCpuPages::events() const {
  AllocationEvents events;
  for (size_t i = 0; i < kLists; ++i) {
    const List& list = lists_[i];
    const uint64_t pages = OrderOf(i).pages().value();
    // Pop writes the two in the opposite order, so `popped` cannot be ahead of
    // the allocations.
    const int64_t popped = list.window.Read().popped;
    const uint64_t allocations = list.allocations.Get();
    events.allocations += allocations;
    events.allocated_pages += allocations * pages;
    // Negative only if another processor's writes are seen out of order.
    const int64_t freed = static_cast<int64_t>(allocations) - popped;
    events.freed_pages +=
        static_cast<uint64_t>(std::max<int64_t>(freed, 0)) * pages;
  }
  return events;
}

PageCount PerCpuPages::cached_pages() const {
  PageCount cached;
  ForEachInUse([&](size_t index, const List& list) {
    cached += OrderOf(index).pages() * list.window.Read().size;
  });
  return cached;
}

PageCount PerCpuPages::CheckedCount(absl::Status& status) const {
  PageCount cached;
  for (size_t i = 0; i < kLists; ++i) {
    const List& list = lists_[i];
    for (const Pfn pfn : list.window.blocks()) {
      cached += OrderOf(i).pages();
      if (pages_.pageblock(pfn).zone != zone_.index() ||
          pages_.Get(pfn) != PageInfo{PageState::kCached, OrderOf(i)}) {
        std::ostringstream text;
        text << "P3: " << pfn << " is on a per-CPU list but is "
             << pages_.Get(pfn);
        status.Update(absl::InternalError(text.str()));
      }
    }
  }
  if (cached != cached_pages()) {
    std::ostringstream text;
    text << "P3: " << cached << " on per-CPU lists, " << cached_pages()
         << " counted";
    status.Update(absl::InternalError(text.str()));
  }
  return cached;
}

}  // namespace guestmm
