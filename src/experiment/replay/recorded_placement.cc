#include "src/experiment/replay/recorded_placement.h"

#include <cstddef>
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
    : TracePlacement(recording, allocator, host, counters), kernel_(kernel) {
  for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
    for (const auto& zone : allocator.zones()) {
      const RecordedZone* const recorded = FindZone(recording.zones, *zone);
      if (recorded == nullptr ||
          static_cast<size_t>(cpu) >= recorded->per_cpu.size()) {
        per_cpu_.emplace_back(kernel,
                              allocator.per_cpu_pages(cpu, *zone).limits());
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
      PcpReconstruction& lists = per_cpu_.emplace_back(kernel, limits);
      lists.set_high(high);
      lists.Seed(real.count);
    }
  }
  for (const TraceEvent& event : listed) ListAtStart(event);
}

void RecordedPlacement::ListAtStart(const TraceEvent& event) {
  if (!HasAll(event.pfn, event.order) || IsUnmanaged(event)) return;
  Zone& zone = allocator_.ZoneOf(event.pfn);
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  {
    LockHolder hold(zone.lock());
    if (!zone.Reshape(event.pfn, event.order)) return;
  }
  host_.OnFreed(event.pfn, event.order);
  const uint32_t index = IndexOf(event, zone);
  listed_[event.pfn.value()] = index;
  per_cpu_[index].Identify(event.pfn, event.order, type);
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
  Zone& zone = allocator_.ZoneOf(event.pfn);
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
  if (const auto listed = listed_.find(event.pfn.value());
      listed != listed_.end() && IsWhole(event.pfn, event.order)) {
    listed_.erase(listed);
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
  NoteShortage(zone, event.order);
  if (!PcpReconstruction::Caches(event.order)) {
    DrainOverlapping(zone, event.pfn, event.order);
    LockHolder hold(zone.lock());
    return zone.TakeAt(event.pfn, event.order, type);
  }
  const uint32_t index = IndexOf(event, zone);
  const auto listed = listed_.find(event.pfn.value());
  if (per_cpu_[index].TakeListed(event.pfn, event.order, type)) {
    listed_.erase(event.pfn.value());
    return true;
  }
  if (listed != listed_.end() && listed->second == index &&
      per_cpu_[index].Remove(event.pfn, event.order)) {
    listed_.erase(listed);
    return true;
  }
  DrainOverlapping(zone, event.pfn, event.order);
  if (IsFree(zone, event.pfn, event.order)) {
    AllocateByRefill(zone, event, type, index);
    return true;
  }
  per_cpu_[index].TakeSeeded(event.order);
  return false;
}

void RecordedPlacement::LeaveZone(const TraceEvent& event) {
  is_inferring_ = false;
  Zone& zone = allocator_.ZoneOf(event.pfn);
  // The policy's doing, not the trace's.
  if (OverlapsIsolated(event.pfn, event.order)) return;
  // The request for any other block follows.
  if (!PcpReconstruction::Caches(event.order)) {
    if (!IsFree(zone, event.pfn, event.order)) ++counters_.unfit_moves;
    return;
  }
  const MigrateType type = TypeOf(event);
  LearnType(zone, event.pfn, type);
  if (listed_.contains(event.pfn.value()) && IsWhole(event.pfn, event.order)) {
    ++counters_.unfit_moves;
    return;
  }
  const bool was_drained = DrainOverlapping(zone, event.pfn, event.order);
  LockHolder hold(zone.lock());
  const bool is_taken = zone.TakeAt(event.pfn, event.order, type);
  if (is_taken) listed_[event.pfn.value()] = IndexOf(event, zone);
  if (was_drained || !is_taken) ++counters_.unfit_moves;
}

void RecordedPlacement::EnterZone(const TraceEvent& event) {
  is_inferring_ = false;
  Zone& zone = allocator_.ZoneOf(event.pfn);
  if (OverlapsListed(event.pfn, event.order)) {
    if (!listed_.contains(event.pfn.value()) ||
        !IsWhole(event.pfn, event.order)) {
      ++counters_.unfit_moves;
      return;
    }
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
  Zone& zone = allocator_.ZoneOf(event.pfn);
  MigrateType type;
  bool is_known;
  {
    const bool is_listed = OverlapsListed(event.pfn, event.order);
    LockHolder hold(zone.lock());
    const PageInfo info = allocator_.pages().Get(event.pfn);
    const bool is_whole =
        info.state == PageState::kAllocated && info.order == event.order;
    is_known = !is_listed && (is_whole || zone.Reshape(event.pfn, event.order));
    if (is_known && !is_whole) ++counters_.split_frees;
    type = zone.pageblock_type(event.pfn);
  }
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
  if (is_cached) {
    const uint32_t index = IndexOf(event, zone);
    listed_[event.pfn.value()] = index;
    if (is_inferring_) {
      per_cpu_[index].Free(event.pfn, event.order, type, zone.pressure(),
                           drained_);
    }
  } else {
    drained_.push_back({event.pfn, event.order});
  }
  const bool is_of_lists = is_cached && !drained_.empty();
  FreeDrained(zone);
  if (is_of_lists) zone.NoteReturned();
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
                                         MigrateType type, uint32_t index) {
  const Order order = event.order;
  drained_.clear();
  uint64_t others =
      per_cpu_[index].Refill(order, type, zone.pressure(), drained_);
  FreeDrained(zone);
  LockHolder hold(zone.lock());
  const std::optional<Zone::Block> block = zone.FreeBlockAround(event.pfn);
  GUESTMM_CHECK(block.has_value());
  const bool is_next =
      block->pfn == event.pfn && IsNextToHandOut(zone, *block, order, type);
  const auto take = [&](Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    const bool taken = zone.TakeAt(pfn, order, type);
    GUESTMM_CHECK(taken) << pfn;
  };
  const auto assume = [&](Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    assumed_reported_.erase(pfn.value());
    if (zone.IsReported(pfn))
      assumed_reported_[pfn.value()] = *zone.FreeBlockAt(pfn);
    take(pfn);
    listed_[pfn.value()] = index;
    per_cpu_[index].Assume(pfn, order, type);
    --others;
  };
  take(event.pfn);
  // A refill (rmqueue_bulk) splits one block and takes its parts upwards, so
  // the pages behind the one handed out first were listed with it.
  Order whole = block->order;
  while (!event.pfn.IsAligned(whole)) whole = Order(whole.value() - 1);
  const Pfn end = PagesOf(event.pfn, whole).end;
  for (Pfn pfn = event.pfn + order.pages(); others > 0 && pfn < end;
       pfn += order.pages()) {
    assume(pfn);
  }
  // It goes on with the next free block, if the first one was the zone's first
  // choice. Which whole pageblock it would split for a small order is a guess,
  // so none is.
  if (!is_next) return;
  const Order largest = order == kPageblockOrder
                            ? allocator_.max_order()
                            : Order(kPageblockOrder.value() - 1);
  for (Order from = order; others > 0 && from <= largest;) {
    if (const auto next = zone.FirstFreeBlock(from, type)) {
      assume(*next);
      from = order;  // the rest of that block is free at smaller orders
    } else {
      from = Order(from.value() + 1);
    }
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
  ForEachBlock(pfn, order, [&](Pfn head, Order its) {
    const auto listed = listed_.find(head.value());
    if (listed == listed_.end()) return;
    if (is_inferring_) {
      per_cpu_[listed->second].DrainThrough(head, its, drained_);
    } else {
      drained_.push_back({head, its});
    }
  });
  const bool any = !drained_.empty();
  FreeDrained(zone);
  return any;
}

void RecordedPlacement::ForceAllocate(Zone& zone, Pfn pfn, Order order,
                                      MigrateType type) {
  Unlist(pfn, order);
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
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(zone.lock());
    for (const PcpReconstruction::Block& block : drained_) {
      listed_.erase(block.pfn.value());
      FreeBlockObserver* const observer =
          block.never_left_zone ? zone.PutBackAt(block.pfn, block.order)
                                : zone.Free(block.pfn, block.order);
      if (observer != nullptr) to_wake = observer;
      const auto reported = assumed_reported_.find(block.pfn.value());
      if (reported == assumed_reported_.end()) continue;
      if (block.never_left_zone &&
          zone.FreeBlockAt(block.pfn) == reported->second) {
        zone.MarkReported(block.pfn);
      }
      assumed_reported_.erase(reported);
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
  ForEachBlock(pfn, order, [&](Pfn head, Order) {
    any = any || listed_.contains(head.value());
  });
  return any;
}

void RecordedPlacement::Unlist(Pfn pfn, Order order) {
  ForEachBlock(pfn, order, [&](Pfn head, Order its) {
    const auto listed = listed_.find(head.value());
    if (listed == listed_.end()) return;
    if (is_inferring_) per_cpu_[listed->second].Remove(head, its);
    listed_.erase(listed);
  });
}

}  // namespace guestmm
