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
      pages_(pages),
      zone_(zone),
      zone_index_(static_cast<uint8_t>(zone.index())),
      version_(version) {
  VisitorHolder hold(lock_);
  MakeRings();
}

void PerCpuPages::MakeRings() {
  const PerCpuLimits& limits = marks_.limits();
  const uint64_t pages =
      uint64_t{std::max(limits.high, limits.high_max)} + limits.batch;
  const uint32_t orders = CachedOrders(version_, pages_.pageblock_order());
  for (size_t i = 0; i < lists_.size(); ++i) {
    if ((orders >> OrderOf(i).value() & 1) == 0) continue;
    // Above the high mark there may be one more block, and a refill, which is
    // of at least two.
    const auto size =
        static_cast<uint32_t>(std::bit_ceil((pages >> OrderOf(i).value()) + 4));
    lists_[i].mask = size - 1;
    // Takes memory only where it is written.
    lists_[i].ring = std::make_unique_for_overwrite<uint32_t[]>(size);
  }
}

FreeBlockObserver* PerCpuPages::SetLimits(PerCpuLimits limits) {
  VisitorHolder hold(lock_);
  if (limits == marks_.limits()) return nullptr;
  FreeBlockObserver* const to_wake = DrainHeld();
  marks_.SetLimits(limits);
  MakeRings();
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
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  marks_.OnAllocate();
  if (list.empty() && !Refill(list, order, type, mixing)) return kNoPfn;
  return Pop(list, order, type);
}

FreeBlockObserver* PerCpuPages::Free(Pfn pfn, Order order) {
  LockHolder hold(lock_);
  const PageMap::Pageblock pageblock = pages_.pageblock(pfn);
  if (!IsOurs(pfn, order, pageblock)) return FreeUncached(pfn, order);
  const size_t index = PerCpuLists::IndexOf(order, pageblock.type);
  Push(lists_[index], pfn, order);
  const uint64_t pages =
      marks_.PagesToReturn(order, count_.Get(), zone_.pressure());
  if (pages == 0) return nullptr;
  FreeBlockObserver* const to_wake = ReturnToZone(pages, index);
  zone_.NoteReturned();
  return to_wake;
}

bool PerCpuPages::Refill(List& list, Order order, MigrateType type,
                         Mixing mixing) {
  const uint64_t wanted =
      marks_.BlocksToRefill(order, count_.Get(), zone_.pressure());
  if (refill_.size() < wanted) refill_.resize(wanted);
  size_t taken = 0;
  {
    LockHolder hold_zone(zone_.lock());
    taken = zone_.AllocateBulk(std::span(refill_).first(wanted), order, type,
                               mixing);
  }
  for (size_t i = 0; i < taken; ++i) {
    list[list.end++] = static_cast<uint32_t>(refill_[i].value());
  }
  count_.Add(taken * order.pages().value());
  return taken > 0;
}

FreeBlockObserver* PerCpuPages::FreeUncached(Pfn pfn, Order order) {
  if (pages_.FreePinned(pfn, order)) return nullptr;
  // The last pin may have been dropped in between.
  GUESTMM_CHECK(pages_.IsAllocated(pfn, order) &&
                pages_.pageblock(pfn).zone == zone_index_)
      << "free of " << pfn << ", " << order << ", which is " << pages_.Get(pfn);
  LockHolder hold_zone(zone_.lock());
  return zone_.Free(pfn, order);
}

FreeBlockObserver* PerCpuPages::Drain() {
  VisitorHolder hold(lock_);
  return DrainHeld();
}

FreeBlockObserver* PerCpuPages::DrainHeld() {
  return ReturnToZone(count_.Get(), /*first_list=*/0);
}

// The kernel counts in pages, but returns whole blocks, so a list that holds
// pageblocks loses one with each batch.
FreeBlockObserver* PerCpuPages::Decay() {
  VisitorHolder hold(lock_);
  FreeBlockObserver* to_wake = nullptr;
  uint64_t left = marks_.Decay(count_.Get());
  while (left > 0 && count_.Get() > 0) {
    const uint64_t batch = std::min<uint64_t>(left, marks_.limits().batch);
    if (FreeBlockObserver* observer = ReturnToZone(batch, /*first_list=*/0)) {
      to_wake = observer;
    }
    left -= batch;
  }
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
  zone_.PrefetchForFree(batch_);
  LockHolder hold_zone(zone_.lock());
  return zone_.FreeBulk(batch_);
}

inline void PerCpuPages::PickOldest(size_t index, uint64_t blocks) {
  List& list = lists_[index];
  const Order order = OrderOf(index);
  auto type =
      static_cast<MigrateType>(index % static_cast<size_t>(kRequestTypes));
  for (uint64_t i = 0; i < blocks; ++i) {
    const Pfn pfn(list[--list.end]);
    if (index >= PerCpuLists::kPageblockLists)
      type = pages_.pageblock(pfn).type;
    batch_.push_back({.pfn = pfn, .order = order, .type = type});
  }
  count_.Subtract(blocks * order.pages().value());
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
    } while (lists_[list].empty());
    // All other lists are empty.
    if (turn == kRequestTypes) turn = left;
    const uint64_t picked =
        std::min<uint64_t>({left, turn, lists_[list].blocks()});
    PickOldest(list, picked);
    left -= picked;
    turn -= picked;
  }
}

// free_pcppages_bulk of 6.1: empties one list after the other, beginning with
// the one that was freed to.
void PerCpuPages::Pick61(uint64_t pages, size_t first_list) {
  uint64_t left = pages;
  for (size_t i = 0; i < kLists && left > 0; ++i) {
    const size_t list = (first_list + i) % kLists;
    const uint64_t each = OrderOf(list).pages().value();
    const uint64_t wanted = (left + each - 1) / each;
    const uint64_t picked = std::min<uint64_t>(wanted, lists_[list].blocks());
    PickOldest(list, picked);
    left -= std::min(left, picked * each);
  }
}

AllocationEvents PerCpuPages::events() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  // Reads only counters, which need no lock.
  AllocationEvents events;
  for (size_t i = 0; i < kLists; ++i) {
    const uint64_t pages = OrderOf(i).pages().value();
    // Pop writes the two in the opposite order, so `first` cannot be ahead of
    // the allocations.
    const uint64_t first = lists_[i].first.Get();
    const uint64_t allocations = lists_[i].allocations.Get();
    events.allocations += allocations;
    events.allocated_pages += allocations * pages;
    // Negative only if another processor's writes are seen out of order.
    const auto freed = static_cast<int64_t>(allocations - first);
    events.freed_pages +=
        static_cast<uint64_t>(std::max<int64_t>(freed, 0)) * pages;
  }
  return events;
}

PageCount PerCpuPages::CheckedCount(absl::Status& status) const {
  PageCount cached;
  for (size_t i = 0; i < kLists; ++i) {
    const List& list = lists_[i];
    for (uint32_t n = 0; n < list.blocks(); ++n) {
      const Pfn pfn(list[list.first.Get() + n]);
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
