#ifndef GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_

#include <optional>

#include "absl/functional/function_ref.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/frame_allocator.h"

namespace guestmm {

// Pages on free lists, and how many of them the host has.
struct FreeMemory {
  PageCount pages;
  PageCount with_host;

  // None if nothing is free.
  std::optional<double> share() const;
};

// How many of a block's pages the host backs. Asked with no lock held.
using ResidentPages = absl::FunctionRef<PageCount(Pfn pfn, Order order)>;

// Everything on free lists.
FreeMemory CountFree(const FrameAllocator& allocator, ResidentPages resident);

// What a policy that reports blocks of `order` and above might have reported:
// free blocks of that size in zones above their low watermark.
FreeMemory CountReportable(const FrameAllocator& allocator,
                           ResidentPages resident, Order order);

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_FREE_MEMORY_H_
