#include "src/experiment/replay/trace_placement.h"

#include <algorithm>
#include <array>
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

// The free pages of a zone in /proc/buddyinfo; 0 if it is not there.
uint64_t FreePagesOf(const RecordedBuddyInfo& info, const Zone& zone) {
  uint64_t free = 0;
  for (const RecordedBuddyInfo::Zone& real : info.zones) {
    if (real.node != zone.node() || real.name != Name(zone.type())) continue;
    for (size_t order = 0; order < real.blocks.size(); ++order) {
      free += real.blocks[order] << order;
    }
  }
  return free;
}

bool IsWithin(PfnRange pages, const std::vector<GpaRange>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const GpaRange& range) {
    const PfnRange its = PagesOf(range);
    return its.start <= pages.start && pages.end <= its.end;
  });
}

// True if a plug says when the pages left.
bool IsUnplugged(PfnRange pages, const std::vector<Recording::Plug>& plugs) {
  return std::any_of(
      plugs.begin(), plugs.end(), [&](const Recording::Plug& plug) {
        return plug.removed && IsWithin(pages, std::vector{plug.range});
      });
}

}  // namespace

std::unique_ptr<TracePlacement> TracePlacement::Create(
    ReplayPlacement placement, const Recording& recording, KernelVersion kernel,
    std::span<const TraceEvent> listed, PageAllocator& allocator,
    ReplayHost& host, ReplayCounters& counters) {
  if (placement == ReplayPlacement::kRecorded) {
    return std::make_unique<RecordedPlacement>(recording, kernel, listed,
                                               allocator, host, counters);
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
      hotplugged_(recording, allocator),
      added_pages_(allocator.zones().size()) {
  const RecordedPages* first = recording.first ? &*recording.first : nullptr;
  TakeAllBut(first);
  if (first != nullptr) MarkReported(*first);
  if (!unmanaged_.empty() || !recording.arriving.empty()) {
    UseRecordedWatermarks();
  }
  for (const auto* const ranges : {&recording.leaving, &recording.offlined}) {
    for (const GpaRange& range : *ranges) {
      const PfnRange pages = PagesOf(range);
      for (Pfn start = pages.start; start < pages.end;) {
        const Pfn end = std::min(
            pages.end, start.AlignDown(kSectionOrder) + kSectionOrder.pages());
        if (!IsUnplugged({start, end}, recording.plugs)) {
          leaving_.push_back({start, end});
        }
        start = end;
      }
    }
  }
}

void TracePlacement::Follow(const TraceEvent& event) {
  const bool is_alloc = event.kind == TraceEvent::Kind::kAlloc;
  if (event.is_request()) {
    ++counters_.events;
    ++(is_alloc ? counters_.allocations : counters_.frees);
  } else {
    ++counters_.moves;
  }
  if (is_alloc && host_.Touches(event.gfp)) ++counters_.touched_allocations;
  if (!due_.empty()) RemoveDue(event.time);
  const bool is_block =
      event.order <= allocator_.max_order() && event.pfn.IsAligned(event.order);
  const bool may_arrive = is_block && !hotplugged_.is_static();
  if (may_arrive && event.is_request() && Arrive(event)) return;
  if (!is_block || !HasAll(event.pfn, event.order)) {
    ++(event.is_request() ? counters_.outside_memory : counters_.unfit_moves);
    return;
  }
  if (event.is_request()) {
    if (!unmanaged_.empty() && AddMemoryOf(event)) return;
  } else if (!unmanaged_.empty() && IsUnmanaged(event)) {
    ++counters_.unfit_moves;
    return;
  }
  switch (event.kind) {
    case TraceEvent::Kind::kAlloc:
      Allocate(event);
      break;
    case TraceEvent::Kind::kFree:
      Free(event);
      break;
    case TraceEvent::Kind::kZoneAlloc:
      LeaveZone(event);
      break;
    case TraceEvent::Kind::kDrain:
      EnterZone(event);
      break;
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
        if (use != Use::kFree) {
          TakeAll(*zone, {pfn, end}, /*in_use=*/use == Use::kInUse);
        }
        pfn = end;
      }
    }
  }
}

void TracePlacement::TakeAll(Zone& zone, PfnRange run, bool in_use) {
  for (Pfn pfn = run.start; pfn < run.end;) {
    const Order order = LargestOrder(pfn, run.end, allocator_.max_order());
    zone.TakeAt(pfn, order, MigrateType::kMovable);
    if (in_use) host_.OnInUseAtFirst(pfn, order);
    pfn += order.pages();
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

bool TracePlacement::Arrive(const TraceEvent& event) {
  const PfnRange block = PagesOf(event.pfn, event.order);
  const bool is_free = event.kind == TraceEvent::Kind::kFree;
  const bool onlines = is_free && event.order >= kPageblockOrder;
  if (onlines && hotplugged_.IsAssumed(block) && AllFree(block)) return true;
  if (!hotplugged_.MayArrive(block)) return false;
  if (!is_free) {
    Online(PagesOf(event.pfn.AlignDown(kSectionOrder), kSectionOrder),
           std::nullopt, event.time);
  } else if (onlines) {
    Online(block, block, event.time);
  }
  return onlines && HasAll(event.pfn, event.order);
}

std::vector<PfnRange> TracePlacement::Online(PfnRange range,
                                             std::optional<PfnRange> managed,
                                             Nanoseconds now) {
  std::vector<PfnRange> runs = hotplugged_.Online(range, now);
  for (const PfnRange& run : runs) {
    Zone& zone = allocator_.ZoneOf(run.start);
    const PfnRange its = managed.value_or(run);
    for (const PfnRange& rest :
         {PfnRange{run.start, its.start}, PfnRange{its.end, run.end}}) {
      if (rest.start >= rest.end) continue;
      LockHolder hold(zone.lock());
      TakeAll(zone, rest, /*in_use=*/false);
      unmanaged_.AddOffline(rest);
    }
    OnAdded(its);
    added_pages_[static_cast<size_t>(zone.index())] +=
        static_cast<int64_t>(its.pages().value());
  }
  SetWatermarks();
  return runs;
}

void TracePlacement::ResizeZones(const RecordedBuddyInfo* info,
                                 Nanoseconds now) {
  if (unmanaged_.empty() && recording_.arriving.empty() && leaving_.empty() &&
      due_.empty()) {
    return;
  }
  for (const auto& zone : allocator_.zones()) {
    const RecordedZone* const end = FindZone(recording_.zones_at_end, *zone);
    // A zone may be new.
    if (end == nullptr || recording_.zones.empty()) continue;
    while (end->managed > ManagedPages(*zone)) {
      const PageCount step =
          std::min(end->managed - ManagedPages(*zone), kSectionOrder.pages());
      // Half a step, as the two differ by what is in per-CPU lists too.
      if (info != nullptr &&
          FreePagesOf(*info, *zone) <
              zone->free_pages().value() + step.value() / 2) {
        break;
      }
      const std::vector<PfnRange> runs =
          unmanaged_.RemoveLowest(zone->span(), step);
      if (!runs.empty()) {
        Add(runs);
        continue;
      }
      const PfnRange absent = hotplugged_.LowestNew(end->span);
      if (absent.pages() == PageCount(0)) break;
      hotplugged_.Assume(
          Online(PagesOf(absent.start.AlignDown(kSectionOrder), kSectionOrder),
                 std::nullopt, now));
    }
  }
  std::erase_if(leaving_, [&](const PfnRange& section) {
    if (info != nullptr) {
      if (!AllFree(section)) return false;
      const Zone& zone = allocator_.ZoneOf(section.start);
      if (FreePagesOf(*info, zone) + section.pages().value() / 2 >
          zone.free_pages().value()) {
        return false;
      }
    }
    Leave(section, Leaves::kOffline);
    // Each shows in the free memory that the next is compared with.
    RemoveDue(now);
    return true;
  });
  RemoveDue(now);
}

Nanoseconds TracePlacement::next_unplug() const {
  for (size_t i = next_plug_; i < recording_.plugs.size(); ++i) {
    if (recording_.plugs[i].removed) return recording_.plugs[i].time;
  }
  return Nanoseconds::max();
}

void TracePlacement::Unplug(Nanoseconds now) {
  for (; next_plug_ < recording_.plugs.size() &&
         recording_.plugs[next_plug_].time <= now;
       ++next_plug_) {
    const Recording::Plug& plug = recording_.plugs[next_plug_];
    if (plug.removed) Leave(PagesOf(plug.range), Leaves::kUnplugged);
  }
  RemoveDue(now);
}

void TracePlacement::SkipPlugsBefore(Nanoseconds start) {
  while (next_plug_ < recording_.plugs.size() &&
         recording_.plugs[next_plug_].time < start) {
    ++next_plug_;
  }
}

void TracePlacement::Leave(PfnRange range, Leaves leaves) {
  const Pfn end = std::min(range.end, allocator_.pages().end());
  for (Pfn pfn = range.start.AlignUp(kMaxOrder); pfn + kMaxOrder.pages() <= end;
       pfn += kMaxOrder.pages()) {
    const PfnRange block = PagesOf(pfn, kMaxOrder);
    if (hotplugged_.IsOnline(block)) {
      due_.push_back(block);
    } else if (leaves == Leaves::kUnplugged && hotplugged_.MayArrive(block)) {
      // It went offline before.
      host_.OnUnplugged(block);
    }
  }
}

void TracePlacement::RemoveDue(Nanoseconds now) {
  const size_t before = due_.size();
  std::erase_if(due_, [&](const PfnRange& block) {
    if (AnyIsolated(block)) return false;
    for (const PfnRange& run : unmanaged_.Forget(block)) FreeUnmanaged(run);
    Evict(block);
    Zone& zone = allocator_.ZoneOf(block.start);
    const absl::Status status = hotplugged_.Remove(block, now);
    GUESTMM_CHECK(status.ok()) << status.message();
    added_pages_[static_cast<size_t>(zone.index())] -=
        static_cast<int64_t>(block.pages().value());
    if (!IsWithin(block, recording_.offlined) ||
        IsUnplugged(block, recording_.plugs)) {
      host_.OnUnplugged(block);
    }
    return true;
  });
  if (due_.size() < before) SetWatermarks();
}

bool TracePlacement::AnyIsolated(PfnRange range) const {
  const PageMap& pages = allocator_.pages();
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    if (pages.Get(pages.HeadOf(pfn)).state == PageState::kIsolated) return true;
  }
  return false;
}

bool TracePlacement::AllFree(PfnRange range) const {
  const PageMap& pages = allocator_.pages();
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    if (pages.Get(pages.HeadOf(pfn)).state != PageState::kFree &&
        !unmanaged_.Has(pfn)) {
      return false;
    }
  }
  return true;
}

PageCount TracePlacement::ManagedPages(const Zone& zone) const {
  if (recording_.zones.empty()) return zone.managed_pages();
  const RecordedZone* const recorded = FindZone(recording_.zones, zone);
  const auto at_start =
      static_cast<int64_t>(recorded == nullptr ? 0 : recorded->managed.value());
  const int64_t added = added_pages_[static_cast<size_t>(zone.index())];
  return PageCount(
      static_cast<uint64_t>(std::max<int64_t>(at_start + added, 0)));
}

uint64_t TracePlacement::MinFreeKbytes() const {
  // What the kernel would raise it to for huge pages; kept if it was set
  // otherwise, unless the formula for all kernels gives more.
  int zones = 0;
  PageCount managed;
  int zones_before = 0;
  PageCount managed_before;
  PageCount min_before;
  for (const auto& zone : allocator_.zones()) {
    if (zone->type() == ZoneType::kMovable) continue;
    const PageCount pages = ManagedPages(*zone);
    managed += pages;
    if (pages > PageCount(0)) ++zones;
    const RecordedZone* const recorded = FindZone(recording_.zones, *zone);
    if (recorded == nullptr || recorded->managed == PageCount(0)) continue;
    ++zones_before;
    managed_before += recorded->managed;
    min_before += recorded->min;
  }
  const uint64_t by_size = DefaultMinFreeKbytes(managed);
  if (min_before == PageCount(0)) return by_size;
  const uint64_t kbytes = min_before.bytes() / kKiB;
  // Each zone's share is rounded down to pages.
  const uint64_t lost = PageCount(zones_before).bytes() / kKiB;
  const uint64_t for_huge_pages =
      HugePageMinFreeKbytes(zones_before, managed_before);
  const bool is_for_huge_pages =
      kbytes <= for_huge_pages && for_huge_pages <= kbytes + lost;
  return std::max(by_size, is_for_huge_pages
                               ? HugePageMinFreeKbytes(zones, managed)
                               : kbytes);
}

void TracePlacement::SetWatermarks() {
  const uint64_t kbytes = MinFreeKbytes();
  // For its own lists; by its zones' sizes, which include what is not managed.
  allocator_.SetMinFreeKbytes(kbytes);
  PageCount all;
  std::array<PageCount, kZoneTypes> of_type;
  for (const auto& zone : allocator_.zones()) {
    all += ManagedPages(*zone);
    of_type[static_cast<size_t>(zone->type())] += ManagedPages(*zone);
  }
  for (const auto& zone : allocator_.zones()) {
    zone->SetWatermarks(ComputeWatermarks(kbytes, ManagedPages(*zone),
                                          std::max(all, PageCount(1))),
                        ComputeLowmemReserve(zone->type(), of_type));
  }
  OnResized();
}

void TracePlacement::Add(const std::vector<PfnRange>& runs) {
  for (const PfnRange& run : runs) {
    OnAdded(run);
    FreeUnmanaged(run);
  }
}

void TracePlacement::FreeUnmanaged(PfnRange run) {
  for (Pfn pfn = run.start; pfn < run.end;) {
    const Order order = LargestOrder(pfn, run.end, allocator_.max_order());
    Zone& zone = allocator_.ZoneOf(pfn);
    added_pages_[static_cast<size_t>(zone.index())] +=
        static_cast<int64_t>(order.pages().value());
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

const RecordedZone* TracePlacement::FindZone(
    const std::vector<RecordedZone>& zones, const Zone& zone) {
  const auto found = std::find_if(zones.begin(), zones.end(),
                                  [&](const RecordedZone& recorded) {
                                    return recorded.node == zone.node() &&
                                           recorded.name == Name(zone.type());
                                  });
  return found == zones.end() ? nullptr : &*found;
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
