#include "src/experiment/replay/recorded_placement.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

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
                                     KernelVersion kernel,
                                     std::span<const TraceEvent> listed,
                                     PageAllocator& allocator, ReplayHost& host,
                                     ReplayCounters& counters)
    : TracePlacement(recording, allocator, host, counters),
      kernel_(kernel),
      listed_(allocator.pages().end()),
      shown_(listed_.MakeList()) {
  for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
    for (const auto& zone : allocator.zones()) {
      const RecordedZone* const recorded = FindZone(recording.zones, *zone);
      if (recorded == nullptr ||
          static_cast<size_t>(cpu) >= recorded->per_cpu.size()) {
        per_cpu_.emplace_back(
            kernel, allocator.per_cpu_pages(cpu, *zone).limits(), listed_);
        continue;
      }
      const RecordedZone::PerCpu& real =
          recorded->per_cpu[static_cast<size_t>(cpu)];
      PerCpuLimits limits =
          DefaultPerCpuLimits(kernel, recorded->managed, recorded->low,
                              static_cast<int>(recorded->per_cpu.size()));
      limits.batch = static_cast<uint32_t>(real.batch);
      const auto high = static_cast<uint32_t>(real.high);
      if (kernel != KernelVersion::kV6_12 && high > 0) limits.high = high;
      PcpReconstruction& lists = per_cpu_.emplace_back(kernel, limits, listed_);
      lists.set_high(high);
      lists.Seed(real.count);
    }
  }
  for (const TraceEvent& event : listed) ListAtStart(event);
}

void RecordedPlacement::ListAtStart(const TraceEvent& event) {
  if (!HasAll(event.pfn, event.order) || IsUnmanaged(event)) return;
  Zone& zone = ZoneOf(event.pfn);
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  {
    LockHolder hold(zone.lock());
    if (!zone.Reshape(event.pfn, event.order)) return;
  }
  host_.OnFreed(event.pfn, event.order);
  per_cpu_[IndexOf(event, zone)].Identify(event.pfn, event.order, type);
}

void RecordedPlacement::RefreshPerCpuLists() {
  if (!is_inferring_) return;
  for (size_t i = 0; i < per_cpu_.size(); ++i) {
    drained_.clear();
    per_cpu_[i].Decay(drained_);
    FreeDrained(*allocator_.zones()[i % allocator_.zones().size()]);
  }
}

void RecordedPlacement::Allocate(const TraceEvent& event) {
  Zone& zone = ZoneOf(event.pfn);
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  host_.OnAllocated(event.pfn, event.order, event.gfp);
  if (is_inferring_ ? AllocateInferred(zone, event, type)
                    : AllocateShown(zone, event, type)) {
    return;
  }
  // Not all of the block was free, as it should have been.
  ++counters_.forced_placements;
  ForceAllocate(zone, event.pfn, event.order, type);
}

bool RecordedPlacement::AllocateShown(Zone& zone, const TraceEvent& event,
                                      MigrateType type) {
  if (const ListedBlocks::Index listed = listed_.Find(event.pfn);
      listed != ListedBlocks::kNone && IsWhole(event.pfn, event.order)) {
    listed_.Remove(listed);
    return true;
  }
  const bool was_drained = DrainOverlapping(zone, event.pfn, event.order);
  bool is_taken;
  {
    LockHolder hold(zone.lock());
    is_taken = zone.TakeAt(event.pfn, event.order, type);
  }
  // The zone gave it out, or the lists drained it, without an event.
  if (was_drained || (is_taken && PcpReconstruction::Caches(event.order))) {
    ++counters_.moves;
    ++counters_.unfit_moves;
  }
  return is_taken;
}

bool RecordedPlacement::AllocateInferred(Zone& zone, const TraceEvent& event,
                                         MigrateType type) {
  if (kernel_ == KernelVersion::kV6_12) NoteShortage(zone, event.order);
  if (!PcpReconstruction::Caches(event.order)) {
    DrainOverlapping(zone, event.pfn, event.order);
    LockHolder hold(zone.lock());
    return zone.TakeAt(event.pfn, event.order, type);
  }
  PcpReconstruction& lists = per_cpu_[IndexOf(event, zone)];
  if (lists.TakeListed(event.pfn, event.order, type)) return true;
  if (const ListedBlocks::Index listed = listed_.Find(event.pfn);
      listed != ListedBlocks::kNone && lists.Lists(listed) &&
      listed_[listed].order == event.order) {
    lists.Remove(listed);
    return true;
  }
  DrainOverlapping(zone, event.pfn, event.order);
  if (IsFree(zone, event.pfn, event.order)) {
    AllocateByRefill(zone, event, type, lists);
    return true;
  }
  lists.TakeSeeded(event.order);
  return false;
}

void RecordedPlacement::LeaveZone(const TraceEvent& event) {
  is_inferring_ = false;
  Zone& zone = ZoneOf(event.pfn);
  // The policy's doing, not the trace's.
  if (OverlapsIsolated(event.pfn, event.order)) return;
  // The request for any other block follows.
  if (!PcpReconstruction::Caches(event.order)) {
    if (!IsFree(zone, event.pfn, event.order)) ++counters_.unfit_moves;
    return;
  }
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  if (listed_.Has(event.pfn) && IsWhole(event.pfn, event.order)) {
    ++counters_.unfit_moves;
    return;
  }
  const bool was_drained = DrainOverlapping(zone, event.pfn, event.order);
  LockHolder hold(zone.lock());
  const bool is_taken = zone.TakeAt(event.pfn, event.order, type);
  if (is_taken) listed_.AddNewest(shown_, event.pfn, event.order);
  if (was_drained || !is_taken) ++counters_.unfit_moves;
}

void RecordedPlacement::EnterZone(const TraceEvent& event) {
  is_inferring_ = false;
  Zone& zone = ZoneOf(event.pfn);
  if (OverlapsListed(event.pfn, event.order)) {
    const ListedBlocks::Index listed = listed_.Find(event.pfn);
    if (listed == ListedBlocks::kNone || !IsWhole(event.pfn, event.order)) {
      ++counters_.unfit_moves;
      return;
    }
    listed_.Remove(listed);
  } else {
    // It was freed by a lost event, or went to the zone unseen and is free.
    ++counters_.unfit_moves;
    if (!PcpReconstruction::Caches(event.order)) return;
    LockHolder hold(zone.lock());
    if (!zone.Reshape(event.pfn, event.order)) return;
    host_.OnFreed(event.pfn, event.order);
  }
  drained_.clear();
  drained_.push_back({event.pfn, event.order});
  FreeDrained(zone);
}

void RecordedPlacement::Free(const TraceEvent& event) {
  Zone& zone = ZoneOf(event.pfn);
  const MigrateType type = allocator_.pages().pageblock(event.pfn).type;
  const bool is_known =
      allocator_.pages().IsAllocated(event.pfn, event.order)
          ? !listed_.Has(event.pfn)
          : !OverlapsListed(event.pfn, event.order) && Reshape(zone, event);
  if (!is_known) {
    // It was allocated without an event, such as by __alloc_pages_bulk.
    ++counters_.unmatched_frees;
    if (OverlapsIsolated(event.pfn, event.order)) return;
    ForceAllocate(zone, event.pfn, event.order, type);
    host_.OnAllocated(event.pfn, event.order, event.gfp);
  }
  host_.OnFreed(event.pfn, event.order);
  drained_.clear();
  const bool is_cached = PcpReconstruction::Caches(event.order);
  if (!is_cached) {
    drained_.push_back({event.pfn, event.order});
  } else if (is_inferring_) {
    per_cpu_[IndexOf(event, zone)].Free(event.pfn, event.order, type,
                                        zone.pressure(), drained_);
  } else {
    listed_.AddNewest(shown_, event.pfn, event.order);
  }
  if (drained_.empty()) return;
  FreeDrained(zone);
  if (is_cached) zone.NoteReturned();
}

bool RecordedPlacement::Reshape(Zone& zone, const TraceEvent& event) {
  LockHolder hold(zone.lock());
  const bool is_one = zone.Reshape(event.pfn, event.order);
  if (is_one) ++counters_.split_frees;
  return is_one;
}

void RecordedPlacement::NoteShortage(const Zone& of_block, Order order) {
  for (const auto& zone : allocator_.zones()) {
    if (zone->node() == of_block.node() && zone->type() >= of_block.type() &&
        zone->managed_pages() > PageCount(0)) {
      zone->NoteBelowHigh(order, zone->lowmem_reserve(ZoneType::kMovable));
    }
  }
}

void RecordedPlacement::Evict(PfnRange pages) {
  Zone& zone = allocator_.ZoneOf(pages.start);
  for (Pfn pfn = pages.start; pfn < pages.end; pfn += kMaxOrder.pages()) {
    DrainOverlapping(zone, pfn, kMaxOrder);
    std::vector<PcpReconstruction::Block> in_use;
    ForEachBlock(pfn, kMaxOrder, [&](Pfn head, Order order) {
      if (allocator_.pages().Get(head).state == PageState::kAllocated) {
        in_use.push_back({head, order});
      }
    });
    for (const PcpReconstruction::Block& block : in_use) {
      host_.OnFreed(block.pfn, block.order);
    }
    drained_ = std::move(in_use);
    FreeDrained(zone);
  }
}

void RecordedPlacement::OnResized() {
  for (int cpu = 0; cpu < allocator_.cpus(); ++cpu) {
    for (const auto& zone : allocator_.zones()) {
      const PageCount managed = ManagedPages(*zone);
      if (managed == PageCount(0)) continue;
      per_cpu_[static_cast<size_t>(cpu) * allocator_.zones().size() +
               static_cast<size_t>(zone->index())]
          .SetLimits(DefaultPerCpuLimits(
              kernel_, managed, zone->watermarks().low, allocator_.cpus()));
    }
  }
}

void RecordedPlacement::AllocateByRefill(Zone& zone, const TraceEvent& event,
                                         MigrateType type,
                                         PcpReconstruction& lists) {
  const Order order = event.order;
  drained_.clear();
  uint64_t others = lists.Refill(order, type, zone.pressure(), drained_);
  FreeDrained(zone);
  LockHolder hold(zone.lock());
  if (others == 0) {
    const uint64_t taken = zone.TakeAt(event.pfn, order, type);
    GUESTMM_CHECK(taken == 1) << event.pfn;
    return;
  }
  const std::optional<Zone::Block> block = zone.FreeBlockAround(event.pfn);
  GUESTMM_CHECK(block.has_value());
  const bool is_next =
      block->pfn == event.pfn && IsNextToHandOut(zone, *block, order, type);
  // Takes the blocks from `pfn` to `end`, as far as the list has room, and
  // assumes all but the event's.
  const auto take = [&](Pfn pfn,
                        Pfn end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    while (pfn < end) {
      const bool is_events = pfn == event.pfn;
      const uint64_t most = others + (is_events ? 1 : 0);
      if (most == 0) break;
      std::optional<Order> reported;
      if (!is_events && zone.IsReported(pfn)) reported = zone.FreeBlockAt(pfn);
      const uint64_t fit = (end - pfn).value() >> order.value();
      const uint64_t taken = zone.TakeAt(pfn, order, type, std::min(most, fit));
      GUESTMM_CHECK(taken > 0) << pfn;
      for (uint64_t i = 0; i < taken; ++i, pfn += order.pages()) {
        if (pfn == event.pfn) continue;
        lists.Assume(pfn, order, type, std::exchange(reported, std::nullopt));
        --others;
      }
    }
  };
  // A refill (rmqueue_bulk) splits one block and takes its parts upwards, so
  // the pages behind the one handed out first were listed with it.
  Order whole = block->order;
  while (!event.pfn.IsAligned(whole)) whole = Order(whole.value() - 1);
  take(event.pfn, PagesOf(event.pfn, whole).end);
  // It goes on with the next free block, if the first one was the zone's first
  // choice. Which whole pageblock it would split for a small order is a guess,
  // so none is.
  if (!is_next) return;
  const Order largest = order == kPageblockOrder
                            ? allocator_.max_order()
                            : Order(kPageblockOrder.value() - 1);
  for (Order from = order; others > 0 && from <= largest;) {
    const std::optional<Pfn> next = zone.FirstFreeBlock(from, type);
    if (!next) {
      from = Order(from.value() + 1);
      continue;
    }
    // The rest of it is on lists of its pageblock's type, at smaller orders.
    const bool is_of_type = allocator_.pages().pageblock(*next).type == type;
    take(*next, PagesOf(*next, is_of_type ? from : order).end);
    from = order;
  }
}

bool RecordedPlacement::IsNextToHandOut(const Zone& zone,
                                        const Zone::Block& block, Order order,
                                        MigrateType type) {
  for (Order below = order; below < block.order;
       below = Order(below.value() + 1)) {
    if (zone.HasFreeBlock(below, type)) return false;
  }
  return zone.FirstFreeBlock(block.order, type) == block.pfn;
}

bool RecordedPlacement::DrainOverlapping(Zone& zone, Pfn pfn, Order order) {
  drained_.clear();
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    if (const ListedBlocks::Index listed = listed_.Find(head)) Drain(listed);
  });
  const bool any = !drained_.empty();
  FreeDrained(zone);
  return any;
}

void RecordedPlacement::Drain(ListedBlocks::Index block) {
  if (is_inferring_) {
    ListsOf(block).DrainThrough(block, drained_);
    return;
  }
  const ListedBlocks::Block drained = listed_.Remove(block);
  drained_.push_back({drained.pfn, drained.order});
}

void RecordedPlacement::ForceAllocate(Zone& zone, Pfn pfn, Order order,
                                      MigrateType type) {
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    if (const ListedBlocks::Index listed = listed_.Find(head)) Unlist(listed);
  });
  LockHolder hold(zone.lock());
  const PfnRange range = PagesOf(pfn, order);
  const PageMap& pages = allocator_.pages();
  for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
    zone.TakeAt(page, Order(0), type);
    // Its report will discard it, so nothing may count on its contents.
    if (pages.Get(pages.HeadOf(page)).state == PageState::kIsolated) {
      host_.OnFreed(page, Order(0));
    }
  }
  zone.Reshape(pfn, order);
}

void RecordedPlacement::LearnType(Zone& zone, Pfn pfn, MigrateType type) {
  if (allocator_.pages().pageblock(pfn).type == type) return;
  LockHolder hold(zone.lock());
  zone.SetPageblockType(pfn, type);
}

void RecordedPlacement::FreeDrained(Zone& zone) {
  if (drained_.empty()) return;
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(zone.lock());
    for (const PcpReconstruction::Block& block : drained_) {
      FreeBlockObserver* const observer =
          block.never_left_zone ? zone.PutBackAt(block.pfn, block.order)
                                : zone.Free(block.pfn, block.order);
      if (observer != nullptr) to_wake = observer;
      if (block.never_left_zone && block.reported &&
          zone.FreeBlockAt(block.pfn) == block.reported) {
        zone.MarkReported(block.pfn);
      }
    }
  }
  if (to_wake != nullptr) to_wake->Wake();
}

size_t RecordedPlacement::IndexOf(const TraceEvent& event,
                                  const Zone& zone) const {
  return static_cast<size_t>(CpuOf(event)) * allocator_.zones().size() +
         static_cast<size_t>(zone.index());
}

PcpReconstruction& RecordedPlacement::ListsOf(ListedBlocks::Index block) {
  // Their lists were made one after another.
  return per_cpu_[(listed_[block].list - shown_ - 1) / PerCpuLists::kCount];
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

bool RecordedPlacement::IsWhole(Pfn pfn, Order order) const {
  return allocator_.pages().Get(pfn).order == order;
}

bool RecordedPlacement::OverlapsIsolated(Pfn pfn, Order order) const {
  bool any = false;
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    any = any || allocator_.pages().Get(head).state == PageState::kIsolated;
  });
  return any;
}

bool RecordedPlacement::OverlapsListed(Pfn pfn, Order order) const {
  bool any = false;
  ForEachBlock(pfn, order,
               [&](Pfn head, Order) { any = any || listed_.Has(head); });
  return any;
}

void RecordedPlacement::Unlist(ListedBlocks::Index block) {
  if (is_inferring_) {
    ListsOf(block).Remove(block);
  } else {
    listed_.Remove(block);
  }
}

}  // namespace guestmm
