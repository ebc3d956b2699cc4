#include "src/host/accounting/free_memory.h"

#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

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

void Add(const Zone& zone, ResidentPages resident, Order min_order,
         FreeMemory& memory) {
  for (const Zone::Block& block : FreeBlocks(zone, min_order)) {
    memory.pages += block.order.pages();
    memory.with_host += block.order.pages() - resident(block.pfn, block.order);
  }
}

}  // namespace

std::optional<double> FreeMemory::share() const {
  if (pages == PageCount(0)) return std::nullopt;
  return static_cast<double>(with_host.value()) /
         static_cast<double>(pages.value());
}

FreeMemory CountFree(const PageAllocator& allocator, ResidentPages resident) {
  FreeMemory memory;
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    Add(*zone, resident, Order(0), memory);
  }
  return memory;
}

FreeMemory CountReportable(const PageAllocator& allocator,
                           ResidentPages resident, Order order) {
  FreeMemory memory;
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    if (zone->free_pages() <= zone->watermarks().low) continue;
    Add(*zone, resident, order, memory);
  }
  return memory;
}

}  // namespace guestmm
