#ifndef GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_

#include <optional>

#include "absl/functional/function_ref.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/frame_allocator.h"

namespace guestmm {

// Pages on free lists, and how many of them are not resident.
struct FreeMemory {
  PageCount pages;
  PageCount with_host;

  // The share that is not resident; none if nothing is free.
  std::optional<double> share() const;
};

// The number of a block's pages that are resident. Called with no lock held.
using ResidentPages = absl::FunctionRef<PageCount(Pfn pfn, Order order)>;

// Counts the blocks of at least this order on free lists.
FreeMemory CountFree(const FrameAllocator& allocator, ResidentPages resident,
                     Order min_order = Order(0));

// Counts the blocks that a policy for `order` and above could have reported:
// free blocks of at least that order in zones above their low watermark.
FreeMemory CountReportable(const FrameAllocator& allocator,
                           ResidentPages resident, Order order);

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_
