#ifndef GUESTMM_SRC_SIM_FREE_MEMORY_H_
#define GUESTMM_SRC_SIM_FREE_MEMORY_H_

#include <optional>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/sim/host_ledger.h"

namespace guestmm {

// Pages on free lists, and how many of them the host has.
struct FreeMemory {
  PageCount pages;
  PageCount with_host;

  // None if nothing is free.
  std::optional<double> share() const;
};

// Everything on free lists.
FreeMemory CountFree(const PageAllocator& allocator, const HostLedger& ledger);

// What a policy that reports blocks of `order` and above might have reported:
// free blocks of that size in zones above their low watermark.
FreeMemory CountReportable(const PageAllocator& allocator,
                           const HostLedger& ledger, Order order);

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_FREE_MEMORY_H_
