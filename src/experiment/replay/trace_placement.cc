#include "src/experiment/replay/trace_placement.h"

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/buddy/watermarks.h"
#include "src/experiment/replay/native_placement.h"
#include "src/experiment/replay/recorded_placement.h"

namespace guestmm {
namespace {

// The largest order up to `max_order` of which a block at `pfn` ends by `end`.
Order LargestOrder(Pfn pfn, Pfn end, Order max_order) {
  Order order(0);
  while (order < max_order) {
    const Order next(order.value() + 1);
    if (!pfn.IsAligned(next) || PagesOf(pfn, next).end > end) break;
    order = next;
  }
  return order;
}

const RecordedZone* FindZone(const std::vector<RecordedZone>& zones,
                             const Zone& zone) {
  const auto found = std::find_if(zones.begin(), zones.end(),
                                  [&](const RecordedZone& recorded) {
                                    return recorded.node == zone.node() &&
                                           recorded.name == Name(zone.type());
                                  });
  return found == zones.end() ? nullptr : &*found;
}

}  // namespace

std::unique_ptr<TracePlacement> TracePlacement::Create(
    ReplayPlacement placement, const Recording& recording,
    PageAllocator& allocator, ReplayHost& host, ReplayCounters& counters) {
  if (placement == ReplayPlacement::kRecorded) {
    return std::make_unique<RecordedPlacement>(recording, allocator, host,
                                               counters);
  }
  return std::make_unique<NativePlacement>(recording, allocator, host,
                                           counters);
}

TracePlacement::TracePlacement(const Recording& recording,
                               PageAllocator& allocator, ReplayHost& host,
                               ReplayCounters& counters)
    : allocator_(allocator),
      host_(host),
      counters_(counters),
      recording_(recording),
      unmanaged_(recording),
      added_pages_(allocator.zones().size()) {
  const RecordedPages* first = recording.first ? &*recording.first : nullptr;
  TakeAllBut(first);
  if (first != nullptr) MarkReported(*first);
  if (!unmanaged_.empty()) UseRecordedWatermarks();
}

void TracePlacement::Follow(const TraceEvent& event) {
  const bool is_alloc = event.kind == TraceEvent::Kind::kAlloc;
  ++(is_alloc ? counters_.allocations : counters_.frees);
  if (event.order > allocator_.max_order() ||
      !event.pfn.IsAligned(event.order) || !HasAll(event.pfn, event.order)) {
    ++counters_.outside_memory;
    return;
  }
  if (!unmanaged_.empty() && AddMemoryOf(event)) return;
  if (is_alloc) {
    Allocate(event);
  } else {
    Free(event);
  }
}

void TracePlacement::TakeAllBut(const RecordedPages* first) {
  enum class Use { kFree, kInUse, kUnmanaged };
  const auto use_of = [&](Pfn pfn) {
    if (unmanaged_.Has(pfn)) return Use::kUnmanaged;
    const bool is_free =
        first != nullptr && pfn.value() < first->states.size() &&
        first->states[pfn.value()] == RecordedPages::State::kFree;
    return is_free ? Use::kFree : Use::kInUse;
  };
  for (const auto& zone : allocator_.zones()) {
    LockHolder hold(zone->lock());
    for (const PfnRange& range : zone->ranges()) {
      for (Pfn pfn = range.start; pfn < range.end;) {
        const Use use = use_of(pfn);
        Pfn end = pfn + PageCount(1);
        while (end < range.end && use_of(end) == use) end += PageCount(1);
        while (use != Use::kFree && pfn < end) {
          const Order order = LargestOrder(pfn, end, allocator_.max_order());
          zone->TakeAt(pfn, order, MigrateType::kMovable);
          if (use == Use::kInUse) host_.OnInUseAtFirst(pfn, order);
          pfn += order.pages();
        }
        pfn = end;
      }
    }
  }
}

void TracePlacement::UseRecordedWatermarks() {
  for (const auto& zone : allocator_.zones()) {
    const RecordedZone* const recorded = FindZone(recording_.zones, *zone);
    if (recorded == nullptr || recorded->low == PageCount(0)) continue;
    LowmemReserve reserve;
    for (int type = 0; type < kZoneTypes; ++type) {
      reserve[static_cast<size_t>(type)] =
          zone->lowmem_reserve(static_cast<ZoneType>(type));
    }
    zone->SetWatermarks(
        {.min = recorded->min, .low = recorded->low, .high = recorded->high},
        reserve);
  }
}

bool TracePlacement::AddMemoryOf(const TraceEvent& event) {
  const PfnRange block = PagesOf(event.pfn, event.order);
  if (!unmanaged_.HasAnyOf(block)) return false;
  if (event.kind == TraceEvent::Kind::kFree) {
    const bool is_all = unmanaged_.HasAllOf(block);
    Add(unmanaged_.Remove(block));
    return is_all;
  }
  for (Pfn pfn = block.start; pfn < block.end; pfn += PageCount(1)) {
    Add(unmanaged_.RemoveGrown(pfn));
  }
  return false;
}

void TracePlacement::AddGrownMemory(const RecordedBuddyInfo* info) {
  if (unmanaged_.empty()) return;
  for (const auto& zone : allocator_.zones()) {
    const RecordedZone* const start = FindZone(recording_.zones, *zone);
    const RecordedZone* const end = FindZone(recording_.zones_at_end, *zone);
    if (start == nullptr || end == nullptr) continue;
    uint64_t& added = added_pages_[static_cast<size_t>(zone->index())];
    while (end->managed.value() > start->managed.value() + added) {
      const PageCount step =
          std::min(end->managed - start->managed - PageCount(added),
                   kSectionOrder.pages());
      if (info != nullptr) {
        uint64_t free = 0;
        for (const RecordedBuddyInfo::Zone& real : info->zones) {
          if (real.node != zone->node() || real.name != Name(zone->type())) {
            continue;
          }
          for (size_t order = 0; order < real.blocks.size(); ++order) {
            free += real.blocks[order] << order;
          }
        }
        // Half a step, as the two differ by what is in per-CPU lists too.
        if (free < zone->free_pages().value() + step.value() / 2) break;
      }
      const std::vector<PfnRange> runs =
          unmanaged_.RemoveLowest(zone->span(), step);
      if (runs.empty()) break;
      Add(runs);
    }
  }
}

void TracePlacement::Add(const std::vector<PfnRange>& runs) {
  for (const PfnRange& run : runs) {
    OnAdded(run);
    for (Pfn pfn = run.start; pfn < run.end;) {
      const Order order = LargestOrder(pfn, run.end, allocator_.max_order());
      Zone& zone = allocator_.ZoneOf(pfn);
      added_pages_[static_cast<size_t>(zone.index())] += order.pages().value();
      FreeBlockObserver* observer = nullptr;
      {
        LockHolder hold(zone.lock());
        const bool is_one = zone.Reshape(pfn, order);
        GUESTMM_CHECK(is_one) << pfn << " was in use";
        observer = zone.Free(pfn, order);
      }
      if (observer != nullptr) observer->Wake();
      pfn += order.pages();
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
      host_.OnReported(std::span(&range, 1));
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
