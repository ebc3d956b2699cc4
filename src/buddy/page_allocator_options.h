#ifndef GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_
#define GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_

#include "absl/status/statusor.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm {

// The options with every default filled in, but for what depends on the zones'
// sizes. InvalidArgument names the one that is out of bounds.
absl::StatusOr<PageAllocatorOptions> Resolve(PageAllocatorOptions options);

}  // namespace guestmm

#endif  // GUESTMM_SRC_BUDDY_PAGE_ALLOCATOR_OPTIONS_H_
