#include "src/sim/recorded_placement.h"

#include <cstddef>

namespace guestmm {
namespace {

bool IsFree(Zone& zone, Pfn pfn, Order order) {
  LockHolder hold(zone.lock());
  const auto around = zone.FreeBlockAround(pfn);
  return around && around->order >= order;
}

}  // namespace

RecordedPlacement::RecordedPlacement(const Recording& recording,
                                     PageAllocator& allocator,
                                     HostLedger& ledger,
                                     ReplayCounters& counters)
    : TracePlacement(recording, allocator, ledger, counters) {
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
  Touch(event.pfn, event.order, now);
  if (FollowedPerCpu::Caches(event.order, kPageblockOrder)) {
    const uint32_t index = IndexOf(event, zone);
    const auto cached = cached_.find(event.pfn.value());
    if (per_cpu_[index].Take(event.pfn, event.order, type)) {
      cached_.erase(event.pfn.value());
      return;
    }
    back_.clear();
    if (cached != cached_.end() &&
        allocator_.pages().Get(event.pfn).order == event.order) {
      const uint32_t owner = cached->second;
      cached_.erase(cached);
      if (owner == index) {
        per_cpu_[index].Remove(event.pfn, event.order);
        return;
      }
      // It is allocated here to the zone, so that it need not be taken.
      per_cpu_[owner].GoneBefore(event.pfn, event.order, back_);
      per_cpu_[index].TakeUnlisted(event.order, type, back_);
      GiveBack(zone);
      return;
    }
    if (!IsFree(zone, event.pfn, event.order)) {
      per_cpu_[index].TakeUnknown(event.order);
      Force(zone, event.pfn, event.order, type);
      return;
    }
    per_cpu_[index].TakeUnlisted(event.order, type, back_);
    GiveBack(zone);
  }
  {
    LockHolder hold(zone.lock());
    if (zone.TakeAt(event.pfn, event.order, type)) return;
  }
  Force(zone, event.pfn, event.order, type);
}

void RecordedPlacement::Free(const TraceEvent& event) {
  Zone& zone = allocator_.ZoneOf(event.pfn);
  MigrateType type;
  {
    const bool is_cached = AnyCached(event.pfn, event.order);
    LockHolder hold(zone.lock());
    const PageInfo info = allocator_.pages().Get(event.pfn);
    const bool is_whole =
        info.state == PageState::kAllocated && info.order == event.order;
    if (is_cached || (!is_whole && !zone.Reshape(event.pfn, event.order))) {
      ++counters_.unmatched_frees;
      return;
    }
    if (!is_whole) ++counters_.split_frees;
    type = zone.pageblock_type(event.pfn);
  }
  Release(event.pfn, event.order);
  back_.clear();
  if (FollowedPerCpu::Caches(event.order, kPageblockOrder)) {
    const uint32_t index = IndexOf(event, zone);
    cached_[event.pfn.value()] = index;
    per_cpu_[index].Free(event.pfn, event.order, type, back_);
  } else {
    back_.push_back({event.pfn, event.order});
  }
  GiveBack(zone);
}

void RecordedPlacement::Force(Zone& zone, Pfn pfn, Order order,
                              MigrateType type) {
  ++counters_.forced_placements;
  Uncache(pfn, order);
  LockHolder hold(zone.lock());
  const PfnRange range = PagesOf(pfn, order);
  for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
    zone.TakeAt(page, Order(0), type);
  }
  zone.Reshape(pfn, order);
}

void RecordedPlacement::GiveBack(Zone& zone) {
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(zone.lock());
    for (const FollowedPerCpu::Block& block : back_) {
      cached_.erase(block.pfn.value());
      if (FreeBlockObserver* observer = zone.Free(block.pfn, block.order)) {
        to_wake = observer;
      }
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
