// Brings memory online and offline, and updates what depends on the sizes of
// zones.

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm {

void PageAllocator::SetObserver(FreeBlockObserver* observer, Order min_order,
                                TakenBlocks taken) {
  LockHolder hold(memory_lock_);
  observer_ = observer;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    std::vector<PfnRange> ranges;
    {
      LockHolder hold_zone(zone->lock());
      ranges = zone->ranges();
    }
    if (observer != nullptr) {
      for (const PfnRange& range : ranges) {
        observer->OnMemoryOnline(*zone, range);
      }
    }
    zone->SetObserver(observer, min_order, taken);
  }
}

void PageAllocator::SetUseObserver(ZoneUseObserver* observer) {
  for (const std::unique_ptr<Zone>& zone : zones_) {
    zone->SetUseObserver(observer);
  }
}

void PageAllocator::OnlineMemory(Zone& zone, PfnRange range) {
  if (options_.poison != nullptr) {
    const absl::Status status = options_.poison->FillFresh(range);
    GUESTMM_CHECK(status.ok()) << status.message();
  }
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(memory_lock_);
    if (observer_ != nullptr) observer_->OnMemoryOnline(zone, range);
    to_wake = zone.AddMemory(range);
    if (FreeBlockObserver* observer = ZonesResized()) to_wake = observer;
  }
  if (to_wake != nullptr) to_wake->Wake();
}

void PageAllocator::OfflineMemory(Zone& zone, PfnRange range) {
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(memory_lock_);
    {
      LockHolder hold_zone(zone.lock());
      zone.RemoveMemory(range);
    }
    if (observer_ != nullptr) observer_->OnMemoryOffline(zone, range);
    to_wake = ZonesResized();
  }
  if (to_wake != nullptr) to_wake->Wake();
}

void PageAllocator::SetMinFreeKbytes(uint64_t kbytes) {
  FreeBlockObserver* to_wake = nullptr;
  {
    LockHolder hold(memory_lock_);
    set_min_free_kbytes_ = kbytes;
    to_wake = ZonesResized();
  }
  if (to_wake != nullptr) to_wake->Wake();
}

bool PageAllocator::AnyOnline(PfnRange range) const {
  const Pfn end = std::min(range.end, pages_->end());
  for (Pfn pfn = range.start; pfn < end;
       pfn += pages_->pageblock_order().pages()) {
    if (pages_->pageblock(pfn).zone != PageMap::Pageblock::kNoZone) return true;
  }
  return false;
}

FreeBlockObserver* PageAllocator::ZonesResized() {
  FreeBlockObserver* to_wake = nullptr;
  PageCount managed;
  PageCount unmovable;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    managed += zone->managed_pages();
    if (zone->type() != ZoneType::kMovable) unmovable += zone->managed_pages();
  }
  min_free_kbytes_.Set(
      set_min_free_kbytes_.value_or(DefaultMinFreeKbytes(unmovable)));
  for (const std::unique_ptr<Zone>& zone : zones_) {
    std::array<PageCount, kZoneTypes> of_node;
    for (int type = 0; type < kZoneTypes; ++type) {
      of_node[static_cast<size_t>(type)] =
          this->zone(zone->node(), static_cast<ZoneType>(type)).managed_pages();
    }
    zone->SetWatermarks(
        ComputeWatermarks(min_free_kbytes(), zone->managed_pages(),
                          std::max(managed, PageCount(1))),
        ComputeLowmemReserve(zone->type(), of_node));
    // ALLOC_NOFRAGMENT: prefers DMA32 to mixing types in Normal; with several
    // nodes only on a node that has DMA32 (alloc_flags_nofragment).
    const bool avoid =
        zone->type() == ZoneType::kNormal &&
        (nodes() == 1 ||
         of_node[static_cast<size_t>(ZoneType::kDma32)] > PageCount(0));
    zone->SetFirstMixing(avoid ? Mixing::kAvoid : Mixing::kAllow);
    const auto node_cpus = static_cast<int>(
        std::count(cpu_nodes_.begin(), cpu_nodes_.end(), zone->node()));
    const PerCpuLimits limits =
        options_.per_cpu_limits.value_or(DefaultPerCpuLimits(
            options_.per_cpu_lists, zone->managed_pages(),
            zone->watermarks().low, node_cpus > 0 ? node_cpus : cpus()));
    for (int cpu = 0; cpu < cpus(); ++cpu) {
      if (FreeBlockObserver* observer = per_cpu(cpu, *zone).SetLimits(limits)) {
        to_wake = observer;
      }
    }
  }
  // Reuses earlier zonelists that are equal. Zonelists differ only in which
  // zones are empty, and cannot be freed while a request may read them.
  auto made = std::make_unique<const Zonelists>(zones_, distances_);
  auto known =
      std::find_if(all_zonelists_.begin(), all_zonelists_.end(),
                   [&](const auto& before) { return *before == *made; });
  if (known == all_zonelists_.end()) {
    known = all_zonelists_.insert(known, std::move(made));
  }
  const Zonelists& lists = **known;
  zonelists_.store(&lists, std::memory_order_release);
  for (int cpu = 0; cpu < cpus(); ++cpu) {
    for (int highest = 0; highest < kZoneTypes; ++highest) {
      const auto zones =
          lists.OnlyFrom(NodeOf(cpu), static_cast<ZoneType>(highest));
      first_choices_[static_cast<size_t>(cpu) * kZoneTypes +
                     static_cast<size_t>(highest)]
          .store(zones.empty() ? nullptr : &per_cpu(cpu, *zones.front()),
                 std::memory_order_release);
    }
  }
  return to_wake;
}

}  // namespace guestmm
