#include "src/sim/free_memory.h"

#include "guestmm/base/lock.h"
#include "guestmm/buddy/migratetype.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {
namespace {

void Add(const Zone& zone, const HostLedger& ledger, Order min_order,
         FreeMemory& memory) {
  LockHolder hold(zone.lock());
  for (int type = 0; type < kMigrateTypes; ++type) {
    for (int order = min_order.value(); order < Zone::kOrders; ++order) {
      zone.ForEachFreeBlock(
          Order(order), static_cast<MigrateType>(type), [&](Pfn pfn) {
            const PageCount pages = Order(order).pages();
            memory.pages += pages;
            memory.with_host += pages - ledger.ResidentPages(pfn, Order(order));
          });
    }
  }
}

}  // namespace

std::optional<double> FreeMemory::share() const {
  if (pages == PageCount(0)) return std::nullopt;
  return static_cast<double>(with_host.value()) /
         static_cast<double>(pages.value());
}

FreeMemory CountFree(const PageAllocator& allocator, const HostLedger& ledger) {
  FreeMemory memory;
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    Add(*zone, ledger, Order(0), memory);
  }
  return memory;
}

FreeMemory CountReportable(const PageAllocator& allocator,
                           const HostLedger& ledger, Order order) {
  FreeMemory memory;
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    if (zone->free_pages() <= zone->watermarks().low) continue;
    Add(*zone, ledger, order, memory);
  }
  return memory;
}

}  // namespace guestmm
