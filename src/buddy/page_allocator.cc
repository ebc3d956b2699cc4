#include "guestmm/buddy/page_allocator.h"

#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "src/buddy/page_allocator_options.h"
#include "src/buddy/zone_paths.h"

namespace guestmm {

absl::StatusOr<std::unique_ptr<PageAllocator>> PageAllocator::Create(
    const PageAllocatorOptions& options) {
  const absl::StatusOr<PageAllocatorOptions> resolved = Resolve(options);
  if (!resolved.ok()) return resolved.status();
  absl::StatusOr<std::unique_ptr<PageMap>> pages =
      PageMap::Create({.end = *resolved->hotplug_end,
                       .pageblock_order = *resolved->pageblock_order,
                       .list_heads = resolved->distances.size() * kZoneTypes *
                                     Zone::kListHeads});
  if (!pages.ok()) return pages.status();
  if (resolved->poison != nullptr) {
    for (const MemoryRange& range : resolved->memory) {
      const absl::Status status = resolved->poison->FillFresh(range.pages());
      if (!status.ok()) return status;
    }
  }
  return std::unique_ptr<PageAllocator>(
      new PageAllocator(*resolved, *std::move(pages)));
}

PageAllocator::PageAllocator(const PageAllocatorOptions& options,
                             std::unique_ptr<PageMap> pages)
    : options_(options),
      per_cpu_orders_(PerCpuPages::CachedOrders(options.per_cpu_lists,
                                                *options.pageblock_order)),
      cpus_(static_cast<unsigned>(options.cpus)),
      cpu_nodes_(options.cpu_nodes),
      distances_(options.distances),
      pages_(std::move(pages)),
      blocks_(pages_->blocks()),
      end_(pages_->end()),
      fast_cpus_(options.poison == nullptr ? cpus_ : 0) {
  for (int node = 0; node < nodes(); ++node) {
    for (int type = 0; type < kZoneTypes; ++type) {
      zones_.push_back(std::make_unique<Zone>(
          Zone::Options{
              .type = static_cast<ZoneType>(type),
              .node = node,
              .index = static_cast<int>(zones_.size()),
              .max_order = options.max_order,
              .placement = options.placement,
              .watches_high = options.per_cpu_lists == KernelVersion::kV6_12},
          *pages_));
    }
  }
  zone_count_ = static_cast<unsigned>(zones_.size());
  for (const ZoneRange& range :
       LayOutZones(options.memory, options.movable, options.max_order)) {
    zone(range.memory.node, range.type).AddMemory(range.memory.pages());
  }
  for (int cpu = 0; cpu < cpus(); ++cpu) {
    for (const std::unique_ptr<Zone>& zone : zones_) {
      per_cpu_.push_back(std::make_unique<PerCpuPages>(
          *zone, *pages_, options.per_cpu_lists, PerCpuLimits{.batch = 1}));
    }
  }
  events_ = std::make_unique<RareEvents[]>(zones_.size());
  first_choices_ =
      std::make_unique<std::atomic<PerCpuPages*>[]>(size_t{cpus_} * kZoneTypes);
  LockHolder hold(memory_lock_);
  set_min_free_kbytes_ = options.min_free_kbytes;
  // There is no observer yet.
  static_cast<void>(ZonesResized());
}

// Allocating -----------------------------------------------------------------

// The analysis cannot follow a lock that is held conditionally.
inline Pfn PageAllocator::TakeFrom(
    PerCpuPages& per_cpu, Order order, MigrateType type, Mixing mixing,
    PerCpuLocks locks) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (IsPerCpuOrder(order)) {
    return locks == PerCpuLocks::kHeld ? per_cpu.TakeHeld(order, type, mixing)
                                       : per_cpu.Take(order, type, mixing);
  }
  Zone& zone = per_cpu.zone();
  LockHolder hold(zone.lock());
  return zone.Take(order, type, mixing);
}

[[gnu::always_inline]] inline PerCpuPages* PageAllocator::FastChoice(
    int cpu, Order order, Gfp gfp) const {
  if (static_cast<unsigned>(cpu) >= fast_cpus_ ||
      static_cast<int>(gfp.type) >= kRequestTypes ||
      gfp.node != Gfp::kLocalNode) [[unlikely]] {
    return nullptr;
  }
  PerCpuPages* const per_cpu = FirstChoice(cpu, gfp.highest);
  if (per_cpu == nullptr) [[unlikely]]
    return nullptr;
  const Zone& zone = per_cpu->zone();
  return zone.WatermarkOk(order, zone.fast_mark()) ? per_cpu : nullptr;
}

// The fast path is here for single pages, and in TakeLarger for other orders:
// in one function the compiler would make one of the two.
Pfn PageAllocator::Take(int cpu, Order order, Gfp gfp) {
  if (order != Order(0)) return TakeLarger(cpu, order, gfp);
  PerCpuPages* const per_cpu = FastChoice(cpu, Order(0), gfp);
  if (per_cpu != nullptr) [[likely]] {
    const Pfn pfn = per_cpu->TakeCached(Order(0), gfp.type);
    if (pfn != kNoPfn) [[likely]]
      return pfn;
  }
  return TakeUncached(cpu, order, gfp);
}

Pfn PageAllocator::TakeLarger(int cpu, Order order, Gfp gfp) {
  PerCpuPages* const per_cpu =
      order <= max_order() ? FastChoice(cpu, order, gfp) : nullptr;
  if (per_cpu != nullptr) [[likely]] {
    Pfn pfn = kNoPfn;
    if (IsPerCpuOrder(order)) {
      pfn = per_cpu->TakeCached(order, gfp.type);
    } else {
      Zone& zone = per_cpu->zone();
      LockHolder hold(zone.lock());
      pfn = ZonePaths::Take(zone, order, gfp.type, zone.first_mixing());
    }
    if (pfn != kNoPfn) [[likely]]
      return pfn;
  }
  return TakeUncached(cpu, order, gfp);
}

Pfn PageAllocator::TakeUncached(int cpu, Order order, Gfp gfp) {
  if (!IsRequest(cpu, order, gfp)) RejectRequest(cpu, order, gfp);
  Pfn pfn = kNoPfn;
  const Zone* tried = nullptr;
  if (gfp.node == Gfp::kLocalNode) {
    PerCpuPages* const per_cpu = FirstChoice(cpu, gfp.highest);
    if (per_cpu != nullptr) {
      Zone& zone = per_cpu->zone();
      zone.NoteBelowHigh(order, zone.lowmem_reserve(zone.type()));
      if (zone.WatermarkOk(order, zone.fast_mark())) {
        pfn = TakeFrom(*per_cpu, order, gfp.type, zone.first_mixing());
        tried = &zone;
      }
    }
  }
  if (pfn == kNoPfn) pfn = TakeFromZonelist(cpu, order, gfp, tried);
  // Outside all locks.
  if (options_.poison != nullptr && pfn != kNoPfn) {
    options_.poison->PrepareAllocated(pfn, order);
  }
  return pfn;
}

void PageAllocator::RejectRequest(int cpu, Order order, Gfp gfp) const {
  GUESTMM_CHECK(0 <= cpu && cpu < cpus())
      << "cpu " << cpu << " must be 0 to " << cpus() - 1;
  GUESTMM_CHECK(order <= max_order())
      << order << " must be at most " << max_order();
  GUESTMM_CHECK(static_cast<int>(gfp.type) < kRequestTypes)
      << "type " << Name(gfp.type)
      << " of a request must be Unmovable, Movable or Reclaimable";
}

PageAllocator::Request PageAllocator::MakeRequest(int cpu, Order order,
                                                  Gfp gfp) const {
  GUESTMM_CHECK(gfp.node < nodes())
      << "node " << int{gfp.node} << " must be at most " << nodes() - 1;
  const Zonelists& lists = *zonelists_.load(std::memory_order_acquire);
  const int node = gfp.node < 0 ? NodeOf(cpu) : gfp.node;
  return {.cpu = cpu,
          .order = order,
          .gfp = gfp,
          .zones = gfp.this_node_only ? lists.OnlyFrom(node, gfp.highest)
                                      : lists.For(node, gfp.highest)};
}

// __alloc_pages_nodemask: get_page_from_freelist, then the slow path.
Pfn PageAllocator::TakeFromZonelist(int cpu, Order order, Gfp gfp,
                                    const Zone* tried) {
  const Request request = MakeRequest(cpu, order, gfp);
  if (!request.zones.empty() &&
      request.zones.front()->first_mixing() == Mixing::kAvoid) {
    const Pfn pfn = TryZones(request, Keep::kLow, Mixing::kAvoid,
                             PerCpuLocks::kFree, tried);
    if (pfn != kNoPfn) return pfn;
    // It may have a block of another type.
    tried = nullptr;
  }
  const Pfn pfn =
      TryZones(request, Keep::kLow, Mixing::kAllow, PerCpuLocks::kFree, tried);
  return pfn != kNoPfn ? pfn : AllocateSlowPath(request);
}

bool PageAllocator::MayTake(const Zone& zone, const Request& request,
                            Keep keep) {
  // 5.3, ac_classzone_idx: the reserve depends on the type of the preferred
  // zone, not on gfp.highest.
  const PageCount reserve = zone.lowmem_reserve(request.zones.front()->type());
  switch (keep) {
    case Keep::kLow:
      return zone.WatermarkOk(request.order, zone.watermarks().low + reserve);
    case Keep::kMin:
    case Keep::kMinForSure: {
      PageCount min = zone.watermarks().min;
      // Not for kAll, which tries all zones above min before it ignores the
      // watermarks.
      const bool atomic = request.gfp.reserves == Reserves::kAtomic;
      if (atomic || request.gfp.reserves == Reserves::kHigh) {
        min -= PageCount(min.value() / 2);
      }
      if (atomic) min -= PageCount(min.value() / 4);
      return zone.WatermarkOk(request.order, min + reserve);
    }
    case Keep::kNothing:
      return true;
  }
  return false;
}

Pfn PageAllocator::TryZones(const Request& request, Keep keep, Mixing mixing,
                            PerCpuLocks locks, const Zone* tried) {
  for (Zone* const zone : request.zones) {
    if (zone == tried) continue;
    // Mixing types is better than using a remote node.
    if (mixing == Mixing::kAvoid &&
        zone->node() != request.zones.front()->node()) {
      return kNoPfn;
    }
    zone->NoteBelowHigh(request.order,
                        zone->lowmem_reserve(request.zones.front()->type()));
    if (!MayTake(*zone, request, keep)) {
      if (keep != Keep::kMinForSure) continue;
      // Without the lock a block that is being split or merged may be missed.
      LockHolder hold(zone->lock());
      if (!MayTake(*zone, request, keep)) continue;
    }
    const Pfn pfn = TakeFrom(per_cpu(request.cpu, *zone), request.order,
                             request.gfp.type, mixing, locks);
    if (pfn == kNoPfn) continue;
    // A miss is relative to the preferred zone's node, which need not be the
    // requested one (zone_statistics).
    const Zone& preferred = *request.zones.front();
    if (zone->node() != preferred.node()) [[unlikely]] {
      events(*zone).numa_miss.fetch_add(1, std::memory_order_relaxed);
      events(preferred).numa_foreign.fetch_add(1, std::memory_order_relaxed);
    }
    if (zone->node() != NodeOf(request.cpu)) [[unlikely]] {
      events(*zone).numa_other.fetch_add(1, std::memory_order_relaxed);
    }
    return pfn;
  }
  return kNoPfn;
}

bool PageAllocator::AllocateAt(Pfn pfn, Order order, MigrateType type) {
  if (!IsRequest(/*cpu=*/0, order, {.type = type})) {
    RejectRequest(/*cpu=*/0, order, {.type = type});
  }
  const uint8_t zone = pfn < pages_->end() ? pages_->pageblock(pfn).zone
                                           : PageMap::Pageblock::kNoZone;
  if (zone == PageMap::Pageblock::kNoZone) return false;
  {
    LockHolder hold(zones_[zone]->lock());
    if (!zones_[zone]->TakeAt(pfn, order, type)) return false;
  }
  if (options_.poison != nullptr) {
    options_.poison->PrepareAllocated(pfn, order);
  }
  return true;
}

// Freeing --------------------------------------------------------------------

Zone& PageAllocator::ZoneOf(Pfn pfn) const {
  const uint8_t zone = pfn < pages_->end() ? pages_->pageblock(pfn).zone
                                           : PageMap::Pageblock::kNoZone;
  GUESTMM_CHECK(zone != PageMap::Pageblock::kNoZone) << pfn << " is in no zone";
  return *zones_[zone];
}

// As Take and TakeLarger.
void PageAllocator::Free(int cpu, Pfn pfn, Order order) {
  if (order != Order(0)) return FreeLarger(cpu, pfn, order);
  if (static_cast<unsigned>(cpu) < fast_cpus_ && pfn < end_) [[likely]] {
    const PageMap::Blocks::PageblockRead pageblock = blocks_.pageblock(pfn);
    const uint8_t zone = pageblock.value().zone;
    if (zone != PageMap::Pageblock::kNoZone &&
        per_cpu(cpu, zone).FreeToCache(pfn, Order(0), pageblock)) [[likely]] {
      return;
    }
  }
  FreeUncached(cpu, pfn, order);
}

void PageAllocator::FreeLarger(int cpu, Pfn pfn, Order order) {
  if (static_cast<unsigned>(cpu) < fast_cpus_ && pfn < end_ &&
      order <= max_order()) [[likely]] {
    const PageMap::Blocks::PageblockRead pageblock = blocks_.pageblock(pfn);
    const uint8_t zone = pageblock.value().zone;
    if (zone != PageMap::Pageblock::kNoZone) [[likely]] {
      if (!IsPerCpuOrder(order)) {
        return FreeToZone(*zones_[zone], pfn, order, pageblock);
      }
      if (per_cpu(cpu, zone).FreeToCache(pfn, order, pageblock)) return;
    }
  }
  FreeUncached(cpu, pfn, order);
}

inline void PageAllocator::FreeToZone(
    Zone& zone, Pfn pfn, Order order,
    PageMap::Blocks::PageblockRead pageblock) {
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(zone.lock());
    to_wake = ZonePaths::Free(zone, pfn, order, blocks_, pageblock);
  }
  if (to_wake != nullptr) to_wake->Wake();
}

void PageAllocator::FreeUncached(int cpu, Pfn pfn, Order order) {
  if (options_.poison != nullptr) {
    if (IsFreeable(cpu, pfn, order) && !FillFreed(pfn, order)) return;
  }
  if (!IsFreeable(cpu, pfn, order)) RejectFree(cpu, pfn, order);
  const PageMap::Blocks::PageblockRead pageblock = blocks_.pageblock(pfn);
  const uint8_t zone = pageblock.value().zone;
  if (zone == PageMap::Pageblock::kNoZone) RejectFree(cpu, pfn, order);
  if (!IsPerCpuOrder(order)) {
    return FreeToZone(*zones_[zone], pfn, order, pageblock);
  }
  if (FreeBlockObserver* observer = per_cpu(cpu, zone).Free(pfn, order)) {
    observer->Wake();
  }
}

void PageAllocator::RejectFree(int cpu, Pfn pfn, Order order) const {
  RejectRequest(cpu, order, {});
  ZoneOf(pfn);
}

bool PageAllocator::FillFreed(Pfn pfn, Order order) {
  // In this order: if the last pin is dropped in between, this call frees the
  // block.
  if (pages_->FreePinned(pfn, order)) return false;
  // A block that is not allocated is not written to; the caller rejects it.
  if (pages_->IsAllocated(pfn, order)) options_.poison->FillFreed(pfn, order);
  return true;
}

void PageAllocator::Pin(Pfn pfn) {
  GUESTMM_CHECK(pfn < pages_->end() && pages_->Pin(pfn))
      << "pin of " << pfn << ", which is "
      << (pfn < pages_->end() ? pages_->Get(pfn) : PageInfo{});
}

void PageAllocator::Unpin(int cpu, Pfn pfn) {
  GUESTMM_CHECK(pfn < pages_->end() && pages_->pins(pfn) > 0)
      << "unpin of " << pfn << ", which is not pinned";
  const Order order = pages_->Get(pfn).order;
  if (pages_->Unpin(pfn) == PageMap::Unpinned::kLastPinOfFreedBlock) {
    Free(cpu, pfn, order);
  }
}

void PageAllocator::DrainPerCpuPages() {
  // Drains lists that look empty too: their lock waits for a vCPU that is about
  // to add a block.
  for (const std::unique_ptr<PerCpuPages>& per_cpu : per_cpu_) {
    if (FreeBlockObserver* observer = per_cpu->Drain()) observer->Wake();
  }
}

void PageAllocator::RefreshPerCpuPages(int cpu) {
  for (const std::unique_ptr<Zone>& zone : zones_) {
    if (FreeBlockObserver* observer = per_cpu(cpu, *zone).Decay()) {
      observer->Wake();
    }
  }
}

}  // namespace guestmm
