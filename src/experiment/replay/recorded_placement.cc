#include "src/experiment/replay/recorded_placement.h"

#include <cstddef>
#include <optional>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

bool IsFree(Zone& zone, Pfn pfn, Order order) {
  LockHolder hold(zone.lock());
  const auto around = zone.FreeBlockAround(pfn);
  return around && around->order >= order;
}

}  // namespace

RecordedPlacement::RecordedPlacement(const Recording& recording,
                                     PageAllocator& allocator, ReplayHost& host,
                                     ReplayCounters& counters)
    : TracePlacement(recording, allocator, host, counters) {
  for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
    for (const auto& zone : allocator.zones()) {
      PerCpuLimits limits = allocator.per_cpu_pages(cpu, *zone).limits();
      uint64_t count = 0;
      for (const RecordedZone& recorded : recording.zones) {
        if (recorded.node != zone->node() ||
            recorded.name != Name(zone->type()) ||
            static_cast<size_t>(cpu) >= recorded.per_cpu.size()) {
          continue;
        }
        const RecordedZone::PerCpu& real =
            recorded.per_cpu[static_cast<size_t>(cpu)];
        limits = {.batch = static_cast<uint32_t>(real.batch),
                  .high = static_cast<uint32_t>(real.high)};
        count = real.count;
      }
      per_cpu_.emplace_back(limits).AddUnknown(count);
    }
  }
}

void RecordedPlacement::Allocate(const TraceEvent& event, Nanoseconds now) {
  Zone& zone = allocator_.ZoneOf(event.pfn);
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  host_.OnAllocated(event.pfn, event.order, event.gfp, now);
  if (PcpReconstruction::Caches(event.order)) {
    const uint32_t index = IndexOf(event, zone);
    const auto cached = cached_.find(event.pfn.value());
    if (per_cpu_[index].Take(event.pfn, event.order, type)) {
      cached_.erase(event.pfn.value());
      return;
    }
    if (cached != cached_.end() && cached->second == index &&
        per_cpu_[index].Remove(event.pfn, event.order)) {
      cached_.erase(cached);
      return;
    }
    GiveBackAround(zone, event.pfn, event.order);
    if (IsFree(zone, event.pfn, event.order)) {
      TakeByRefill(zone, event, type, index);
      return;
    }
    per_cpu_[index].TakeUnknown(event.order);
  } else {
    GiveBackAround(zone, event.pfn, event.order);
    LockHolder hold(zone.lock());
    if (zone.TakeAt(event.pfn, event.order, type)) return;
  }
  // What should have been free is not, or not all.
  ++counters_.forced_placements;
  TakeWhatever(zone, event.pfn, event.order, type, now);
}

void RecordedPlacement::Free(const TraceEvent& event, Nanoseconds now) {
  Zone& zone = allocator_.ZoneOf(event.pfn);
  MigrateType type;
  bool is_known;
  {
    const bool is_cached = AnyCached(event.pfn, event.order);
    LockHolder hold(zone.lock());
    const PageInfo info = allocator_.pages().Get(event.pfn);
    const bool is_whole =
        info.state == PageState::kAllocated && info.order == event.order;
    is_known = !is_cached && (is_whole || zone.Reshape(event.pfn, event.order));
    if (is_known && !is_whole) ++counters_.split_frees;
    type = zone.pageblock_type(event.pfn);
  }
  if (!is_known) {
    // It was allocated without an event (__alloc_pages_bulk).
    ++counters_.unmatched_frees;
    if (AnyInFlight(event.pfn, event.order)) return;
    TakeWhatever(zone, event.pfn, event.order, type, now);
    host_.OnAllocated(event.pfn, event.order, event.gfp, now);
  }
  host_.OnFreed(event.pfn, event.order, now);
  back_.clear();
  if (PcpReconstruction::Caches(event.order)) {
    const uint32_t index = IndexOf(event, zone);
    cached_[event.pfn.value()] = index;
    per_cpu_[index].Free(event.pfn, event.order, type, back_);
  } else {
    back_.push_back({event.pfn, event.order});
  }
  GiveBack(zone);
}

void RecordedPlacement::TakeByRefill(Zone& zone, const TraceEvent& event,
                                     MigrateType type, uint32_t index) {
  const Order order = event.order;
  back_.clear();
  uint64_t others = per_cpu_[index].TakeUnlisted(order, type, back_);
  GiveBack(zone);
  LockHolder hold(zone.lock());
  const std::optional<Zone::Block> block = zone.FreeBlockAround(event.pfn);
  GUESTMM_CHECK(block.has_value());
  const bool is_next =
      block->pfn == event.pfn && IsNext(zone, *block, order, type);
  const auto take = [&](Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    const bool taken = zone.TakeAt(pfn, order, type);
    GUESTMM_CHECK(taken) << pfn;
  };
  const auto suppose = [&](Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    marked_.erase(pfn.value());
    if (zone.IsReported(pfn)) marked_[pfn.value()] = *zone.FreeBlockAt(pfn);
    take(pfn);
    cached_[pfn.value()] = index;
    per_cpu_[index].AssumeCached(pfn, order, type);
    --others;
  };
  take(event.pfn);
  // A refill goes through the block upwards, which begins with what is handed
  // out first.
  Order whole = block->order;
  while (!event.pfn.IsAligned(whole)) whole = Order(whole.value() - 1);
  const Pfn end = PagesOf(event.pfn, whole).end;
  for (Pfn pfn = event.pfn + order.pages(); others > 0 && pfn < end;
       pfn += order.pages()) {
    suppose(pfn);
  }
  // Then it goes on with the next; which whole pageblock it would break for
  // smaller ones is a guess.
  if (!is_next) return;
  const Order largest = order == kPageblockOrder
                            ? allocator_.max_order()
                            : Order(kPageblockOrder.value() - 1);
  for (Order from = order; others > 0 && from <= largest;) {
    if (const auto next = zone.FirstFreeBlock(from, type)) {
      suppose(*next);
      from = order;  // what is left of that block
    } else {
      from = Order(from.value() + 1);
    }
  }
}

bool RecordedPlacement::IsNext(const Zone& zone, const Zone::Block& block,
                               Order order, MigrateType type) {
  for (Order below = order; below < block.order;
       below = Order(below.value() + 1)) {
    if (zone.HasFreeBlock(below, type)) return false;
  }
  return zone.FirstFreeBlock(block.order, type) == block.pfn;
}

void RecordedPlacement::GiveBackAround(Zone& zone, Pfn pfn, Order order) {
  back_.clear();
  ForEachBlock(pfn, order, [&](Pfn head, Order its) {
    const auto cached = cached_.find(head.value());
    if (cached == cached_.end()) return;
    per_cpu_[cached->second].EvictThrough(head, its, back_);
  });
  GiveBack(zone);
}

void RecordedPlacement::TakeWhatever(Zone& zone, Pfn pfn, Order order,
                                     MigrateType type, Nanoseconds now) {
  Uncache(pfn, order);
  LockHolder hold(zone.lock());
  const PfnRange range = PagesOf(pfn, order);
  const PageMap& pages = allocator_.pages();
  for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
    zone.TakeAt(page, Order(0), type);
    // It will lose its contents, and nobody has it.
    if (pages.Get(pages.HeadOf(page)).state == PageState::kIsolated) {
      host_.OnFreed(page, Order(0), now);
    }
  }
  zone.Reshape(pfn, order);
}

void RecordedPlacement::LearnType(Zone& zone, Pfn pfn, MigrateType type) {
  if (allocator_.pages().pageblock(pfn).type == type) return;
  LockHolder hold(zone.lock());
  zone.SetPageblockType(pfn, type);
}

void RecordedPlacement::GiveBack(Zone& zone) {
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(zone.lock());
    for (const PcpReconstruction::Block& block : back_) {
      cached_.erase(block.pfn.value());
      FreeBlockObserver* const observer =
          block.never_left ? zone.PutBackAt(block.pfn, block.order)
                           : zone.Free(block.pfn, block.order);
      if (observer != nullptr) to_wake = observer;
      const auto marked = marked_.find(block.pfn.value());
      if (marked == marked_.end()) continue;
      if (block.never_left && zone.FreeBlockAt(block.pfn) == marked->second) {
        zone.MarkReported(block.pfn);
      }
      marked_.erase(marked);
    }
  }
  if (to_wake != nullptr) to_wake->Wake();
}

uint32_t RecordedPlacement::IndexOf(const TraceEvent& event,
                                    const Zone& zone) const {
  return static_cast<uint32_t>(static_cast<size_t>(CpuOf(event)) *
                                   allocator_.zones().size() +
                               static_cast<size_t>(zone.index()));
}

template <typename Visit>
void RecordedPlacement::ForEachBlock(Pfn pfn, Order order,
                                     const Visit& visit) const {
  const PageMap& pages = allocator_.pages();
  const Pfn end = PagesOf(pfn, order).end;
  for (Pfn head = pages.HeadOf(pfn); head < end;) {
    const Order its = pages.Get(head).order;
    visit(head, its);
    head += its.pages();
  }
}

bool RecordedPlacement::AnyInFlight(Pfn pfn, Order order) const {
  bool any = false;
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    any = any || allocator_.pages().Get(head).state == PageState::kIsolated;
  });
  return any;
}

bool RecordedPlacement::AnyCached(Pfn pfn, Order order) const {
  bool any = false;
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    any = any || cached_.contains(head.value());
  });
  return any;
}

void RecordedPlacement::Uncache(Pfn pfn, Order order) {
  ForEachBlock(pfn, order, [&](Pfn head, Order its) {
    const auto cached = cached_.find(head.value());
    if (cached == cached_.end()) return;
    per_cpu_[cached->second].Remove(head, its);
    cached_.erase(cached);
  });
}

}  // namespace guestmm
