// PageAllocator's counts, /proc/vmstat and invariants.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm {
namespace {

std::vector<Zone::Block> FreeBlocks(const Zone& zone, Order min_order) {
  std::vector<Zone::Block> blocks;
  LockHolder hold(zone.lock());
  for (int type = 0; type < kMigrateTypes; ++type) {
    for (int order = min_order.value(); order < Zone::kOrders; ++order) {
      zone.ForEachFreeBlock(
          Order(order), static_cast<MigrateType>(type), [&](Pfn pfn) {
            blocks.push_back({.pfn = pfn, .order = Order(order)});
          });
    }
  }
  return blocks;
}

}  // namespace

PageCounts PageAllocator::Counts() const {
  PageCounts counts;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    counts.managed += zone->managed_pages();
    counts.free += zone->free_pages();
    counts.offlining += zone->offlining_pages();
    counts.isolated += zone->isolated_pages();
  }
  for (const std::unique_ptr<PerCpuPages>& per_cpu : per_cpu_) {
    counts.cached += per_cpu->cached_pages();
  }
  return counts;
}

PageCount PageAllocator::FreePagesAboveLow() const {
  PageCount pages;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    const PageCount low = zone->watermarks().low;
    if (zone->free_pages() > low) pages += zone->free_pages() - low;
  }
  return pages;
}

bool PageAllocator::HasFreeAboveLow(PageCount pages, ZoneType highest) const {
  return std::any_of(
      zones_.begin(), zones_.end(), [&](const std::unique_ptr<Zone>& zone) {
        return zone->free_pages() >=
               zone->watermarks().low + zone->lowmem_reserve(highest) + pages;
      });
}

void PageAllocator::ForEachFreeBlock(
    Order min_order, FreeBlocksOf zones,
    absl::FunctionRef<void(Pfn pfn, Order order)> visit) const {
  for (const std::unique_ptr<Zone>& zone : zones_) {
    if (zones == FreeBlocksOf::kZonesAboveLow &&
        zone->free_pages() <= zone->watermarks().low) {
      continue;
    }
    for (const Zone::Block& block : FreeBlocks(*zone, min_order)) {
      visit(block.pfn, block.order);
    }
  }
}

VmStat PageAllocator::vmstat(const Zone& zone) const {
  const auto get = [](const std::atomic<uint64_t>& count) {
    return count.load(std::memory_order_relaxed);
  };
  const RareEvents& rare = events(zone);
  const auto type = static_cast<size_t>(zone.type());
  // Misses are read before requests, so that they are never more.
  const uint64_t numa_miss = get(rare.numa_miss);
  const uint64_t numa_other = get(rare.numa_other);
  AllocationEvents through = zone.events();
  for (int cpu = 0; cpu < cpus(); ++cpu) {
    through += per_cpu(cpu, zone).events();
  }
  VmStat stat;
  stat.pgalloc[type] = through.allocated_pages;
  stat.pgfree = through.freed_pages;
  stat.allocstall[type] = get(rare.allocstall);
  stat.pgsteal_direct = get(rare.pgsteal_direct);
  stat.numa_miss = numa_miss;
  stat.numa_foreign = get(rare.numa_foreign);
  stat.numa_other = numa_other;
  // Hits are counted as requests less misses.
  stat.numa_hit = through.allocations - stat.numa_miss;
  stat.numa_local = through.allocations - stat.numa_other;
  stat.alloc_failed = get(rare.alloc_failed);
  stat.alloc_failed_isolated = get(rare.alloc_failed_isolated);
  stat.alloc_failed_isolated_pages = get(rare.alloc_failed_isolated_pages);
  stat.alloc_waited_isolated = get(rare.alloc_waited_isolated);
  return stat;
}

VmStat PageAllocator::vmstat() const {
  VmStat sum;
  for (const std::unique_ptr<Zone>& zone : zones_) sum += vmstat(*zone);
  return sum;
}

// The analysis cannot follow locks taken in a loop; they are taken in the order
// of docs/concurrency.md and released below.
absl::Status PageAllocator::CheckInvariants() const
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().LockAsVisitor();
  for (const auto& zone : zones_) zone->lock().LockAsVisitor();

  absl::Status status;
  PageCount on_lists;
  for (const auto& zone : zones_) status.Update(zone->CheckInvariants());
  for (const auto& per_cpu : per_cpu_)
    on_lists += per_cpu->CheckedCount(status);
  PageCount cached;
  for (const auto& zone : zones_) {
    for (const PfnRange& range : zone->ranges()) {
      for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
        const PageInfo info = pages_->Get(pfn);
        if (info.state == PageState::kCached) cached += info.order.pages();
      }
    }
  }
  if (cached != on_lists) {
    status.Update(absl::InternalError(
        absl::StrFormat("P3: %d pages cached by their states, %d on per-CPU "
                        "lists",
                        cached.value(), on_lists.value())));
  }

  for (const auto& zone : zones_) zone->lock().Unlock();
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().Unlock();
  return status;
}

}  // namespace guestmm
