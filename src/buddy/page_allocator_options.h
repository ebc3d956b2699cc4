#ifndef GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_
#define GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_

#include "absl/status/statusor.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm {

// Fills in every default except those that depend on the sizes of zones.
// InvalidArgument, naming the option, if one is out of bounds.
absl::StatusOr<PageAllocatorOptions> Resolve(PageAllocatorOptions options);

}  // namespace guestmm

#endif  // GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_
