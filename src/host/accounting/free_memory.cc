#include "src/host/accounting/free_memory.h"

namespace guestmm {
namespace {

FreeMemory Count(const FrameAllocator& allocator, ResidentPages resident,
                 Order min_order, FreeBlocksOf zones) {
  FreeMemory memory;
  allocator.ForEachFreeBlock(min_order, zones, [&](Pfn pfn, Order order) {
    memory.pages += order.pages();
    memory.with_host += order.pages() - resident(pfn, order);
  });
  return memory;
}

}  // namespace

std::optional<double> FreeMemory::share() const {
  if (pages == PageCount(0)) return std::nullopt;
  return static_cast<double>(with_host.value()) /
         static_cast<double>(pages.value());
}

FreeMemory CountFree(const FrameAllocator& allocator, ResidentPages resident,
                     Order min_order) {
  return Count(allocator, resident, min_order, FreeBlocksOf::kAllZones);
}

FreeMemory CountReportable(const FrameAllocator& allocator,
                           ResidentPages resident, Order order) {
  return Count(allocator, resident, order, FreeBlocksOf::kZonesAboveLow);
}

}  // namespace guestmm
