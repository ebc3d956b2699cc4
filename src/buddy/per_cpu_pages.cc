#include "guestmm/buddy/per_cpu_pages.h"

#include <algorithm>
#include <bit>
#include <sstream>

#include "guestmm/base/check.h"

namespace guestmm {
PerCpuLimits DefaultPerCpuLimits(KernelVersion version, PageCount managed,
                                 PageCount low, int node_cpus) {
  constexpr uint64_t kMaxBatch = kMiB / kPageSize;
  const uint64_t quarter =
      std::max<uint64_t>(std::min(managed.value() / 1024, kMaxBatch) / 4, 1);
  // 0 for a small zone, whose lists then stay empty.
  const uint64_t size = std::bit_floor(quarter + quarter / 2) - 1;
  const uint64_t batch = std::max<uint64_t>(size, 1);
  const uint64_t high =
      version == KernelVersion::kV5_3
          ? 6 * size
          : std::max(low.value() / static_cast<uint64_t>(node_cpus), 4 * batch);
  constexpr uint64_t kMaxHigh = 1 << 20;
  return {.batch = static_cast<uint32_t>(batch),
          .high = static_cast<uint32_t>(std::min(high, kMaxHigh))};
}

// CONFIG_PCP_BATCH_SCALE_MAX.
constexpr uint32_t kMostDoublings61 = 5;

uint64_t PagesToGiveBack61(const PerCpuLimits& limits, Order order,
                           uint64_t count, uint32_t& free_factor) {
  if (free_factor > 0 && order > Order(0) &&
      order.value() < PerCpuLists::kSmallOrders) {
    return count;
  }
  if (count < limits.high) return 0;
  const uint64_t batch = limits.batch;
  if (limits.high <= batch) return 1;
  const uint64_t most = limits.high - batch;
  const uint64_t doubled = batch << free_factor;
  if (doubled < most && free_factor < kMostDoublings61) ++free_factor;
  return std::clamp(doubled, std::min(batch, most), most);
}

uint32_t PerCpuPages::CachedOrders(KernelVersion version,
                                   Order pageblock_order) {
  if (version == KernelVersion::kV5_3) return 1;
  return ((1U << PerCpuLists::kSmallOrders) - 1) |
         1U << pageblock_order.value();
}

PerCpuPages::PerCpuPages(Zone& zone, PageMap& pages, KernelVersion version,
                         PerCpuLimits limits)
    : limits_(limits),
      pages_(pages),
      zone_(zone),
      zone_index_(static_cast<uint8_t>(zone.index())),
      version_(version) {
  VisitorHolder hold(lock_);
  MakeRings();
}

void PerCpuPages::MakeRings() {
  GUESTMM_CHECK(limits_.batch > 0);
  // Above `high` there may be one more block, and a refill.
  const uint64_t pages = uint64_t{limits_.high} + limits_.batch +
                         pages_.pageblock_order().pages().value() + 2;
  mask_ = std::bit_ceil(pages) - 1;
  const uint32_t orders = CachedOrders(version_, pages_.pageblock_order());
  for (size_t i = 0; i < lists_.size(); ++i) {
    if ((orders >> OrderOf(i).value() & 1) == 0) continue;
    // Takes memory only where it is written.
    lists_[i].ring = std::make_unique_for_overwrite<uint32_t[]>(mask_ + 1);
  }
  refill_.resize(std::max<uint32_t>(limits_.batch, 2));
}

FreeBlockObserver* PerCpuPages::SetLimits(PerCpuLimits limits) {
  VisitorHolder hold(lock_);
  if (limits == limits_) return nullptr;
  FreeBlockObserver* const to_wake = DrainHeld();
  limits_ = limits;
  MakeRings();
  return to_wake;
}

PerCpuLimits PerCpuPages::limits() const {
  VisitorHolder hold(lock_);
  return limits_;
}

Pfn PerCpuPages::Take(Order order, MigrateType type, Mixing mixing) {
  LockHolder hold(lock_);
  return TakeHeld(order, type, mixing);
}

Pfn PerCpuPages::TakeHeld(Order order, MigrateType type, Mixing mixing) {
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  if (free_factor_ > 0) free_factor_ >>= 1;
  if (list.empty() && !Refill(list, order, type, mixing)) return kNoPfn;
  return Pop(list, order, type);
}

FreeBlockObserver* PerCpuPages::Free(Pfn pfn, Order order) {
  LockHolder hold(lock_);
  const PageMap::Pageblock pageblock = pages_.pageblock(pfn);
  if (!IsOurs(pfn, order, pageblock)) return FreeUncached(pfn, order);
  const size_t index = PerCpuLists::IndexOf(order, pageblock.type);
  Push(lists_[index], pfn, order);
  if (count_.Get() < limits_.high && (free_factor_ == 0 || order == Order(0))) {
    return nullptr;
  }
  return Trim(index, order);
}

bool PerCpuPages::Refill(List& list, Order order, MigrateType type,
                         Mixing mixing) {
  uint32_t wanted = limits_.batch;
  if (wanted > 1) wanted = std::max(wanted >> order.value(), 2U);
  size_t taken = 0;
  {
    LockHolder hold_zone(zone_.lock());
    taken = zone_.AllocateBulk(std::span(refill_).first(wanted), order, type,
                               mixing);
  }
  for (size_t i = 0; i < taken; ++i) {
    At(list, list.end++) = static_cast<uint32_t>(refill_[i].value());
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

FreeBlockObserver* PerCpuPages::Trim(size_t index, Order order) {
  if (version_ == KernelVersion::kV5_3) {
    return ReturnToZone(std::min<uint64_t>(limits_.batch, count_.Get()), index);
  }
  return ReturnToZone(
      PagesToGiveBack61(limits_, order, count_.Get(), free_factor_), index);
}

FreeBlockObserver* PerCpuPages::Drain() {
  VisitorHolder hold(lock_);
  return DrainHeld();
}

FreeBlockObserver* PerCpuPages::DrainHeld() {
  return ReturnToZone(count_.Get(), /*first_list=*/0);
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
    const Pfn pfn(At(list, --list.end));
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
    const uint64_t picked = std::min({left, turn, lists_[list].blocks()});
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
    const uint64_t picked = std::min(wanted, lists_[list].blocks());
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
    for (uint64_t at = list.first.Get(); at != list.end; ++at) {
      const Pfn pfn(At(list, at));
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
