#include "src/experiment/replay/trace_placement.h"

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "src/experiment/replay/own_placement.h"
#include "src/experiment/replay/recorded_placement.h"

namespace guestmm {

std::unique_ptr<TracePlacement> TracePlacement::Create(
    Placement placement, const Recording& recording, PageAllocator& allocator,
    ReplayHost& host, ReplayCounters& counters) {
  if (placement == Placement::kRecorded) {
    return std::make_unique<RecordedPlacement>(recording, allocator, host,
                                               counters);
  }
  return std::make_unique<OwnPlacement>(recording, allocator, host, counters);
}

TracePlacement::TracePlacement(const Recording& recording,
                               PageAllocator& allocator, ReplayHost& host,
                               ReplayCounters& counters)
    : allocator_(allocator), host_(host), counters_(counters) {
  const RecordedPages* first = recording.first ? &*recording.first : nullptr;
  TakeAllBut(first);
  if (first != nullptr) MarkReported(*first);
}

void TracePlacement::Follow(const TraceEvent& event, Nanoseconds now) {
  const bool is_alloc = event.kind == TraceEvent::Kind::kAlloc;
  ++(is_alloc ? counters_.allocations : counters_.frees);
  if (event.order > allocator_.max_order() ||
      !event.pfn.IsAligned(event.order) || !HasAll(event.pfn, event.order)) {
    ++counters_.outside_memory;
    return;
  }
  if (is_alloc) {
    Allocate(event, now);
  } else {
    Free(event, now);
  }
}

// All but what is free in `first`; all, if there is none.
void TracePlacement::TakeAllBut(const RecordedPages* first) {
  const auto is_free = [&](Pfn pfn) {
    return first != nullptr && pfn.value() < first->states.size() &&
           first->states[pfn.value()] == RecordedPages::State::kFree;
  };
  const auto none_free = [&](PfnRange block) {
    for (Pfn at = block.start; at < block.end; at += PageCount(1)) {
      if (is_free(at)) return false;
    }
    return true;
  };
  for (const auto& zone : allocator_.zones()) {
    LockHolder hold(zone->lock());
    for (const PfnRange& range : zone->ranges()) {
      for (Pfn pfn = range.start; pfn < range.end;) {
        if (is_free(pfn)) {
          pfn += PageCount(1);
          continue;
        }
        // The largest block from here on of which nothing is free.
        Order order(0);
        while (order < allocator_.max_order()) {
          const Order next(order.value() + 1);
          const PfnRange block = PagesOf(pfn, next);
          if (!pfn.IsAligned(next) || block.end > range.end ||
              !none_free(block)) {
            break;
          }
          order = next;
        }
        zone->TakeAt(pfn, order, MigrateType::kMovable);
        host_.OnInUseAtFirst(pfn, order);
        pfn += order.pages();
      }
    }
  }
}

void TracePlacement::MarkReported(const RecordedPages& first) {
  for (const Pfn pfn : first.reported) {
    if (!HasAll(pfn, Order(0))) continue;
    Zone& zone = allocator_.ZoneOf(pfn);
    LockHolder hold(zone.lock());
    if (const std::optional<Order> order = zone.FreeBlockAt(pfn)) {
      zone.MarkReported(pfn);
      const GpaRange range = {ToGpa(pfn), order->bytes()};
      host_.OnReported(std::span(&range, 1), Nanoseconds(0));
    }
  }
}

MigrateType TracePlacement::TypeOf(const TraceEvent& event) {
  switch (event.migratetype) {
    case 0:
      return MigrateType::kUnmovable;
    case 2:
      return MigrateType::kReclaimable;
    default:
      return MigrateType::kMovable;
  }
}

int TracePlacement::CpuOf(const TraceEvent& event) const {
  return std::min<int>(event.cpu, allocator_.cpus() - 1);
}

bool TracePlacement::HasAll(Pfn pfn, Order order) const {
  const PageMap& pages = allocator_.pages();
  const PfnRange range = PagesOf(pfn, order);
  if (range.end > pages.end()) return false;
  for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
    if (pages.IsOffline(page)) return false;
  }
  return true;
}

}  // namespace guestmm
