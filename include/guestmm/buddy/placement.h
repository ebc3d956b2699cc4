#ifndef GUESTMM_BUDDY_PLACEMENT_H_
#define GUESTMM_BUDDY_PLACEMENT_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"

namespace guestmm {

// The kernels whose allocator is modelled: the one v12 was posted for, and the
// one of the recordings, 6.1 as its stable releases are since 6.1.104. An
// option names the one whose way it goes.
enum class KernelVersion {
  kV5_3,
  kV6_1,
};

// Where on its free list a block goes, which decides which memory is used again
// soon and which is left for the host. In 5.3 at the head, but at the tail
// where a merge is likely soon. In 6.1 also at the tail: memory given at boot
// or onlined, blocks that come back from the host, and those that change their
// migratetype.
struct PlacementOptions {
  KernelVersion rules = KernelVersion::kV5_3;
  // Page shuffle (CONFIG_SHUFFLE_PAGE_ALLOCATOR, page_alloc.shuffle=1): blocks
  // of the largest order are in random order at first, and go to either end
  // later. The value seeds it; none for no shuffle.
  std::optional<uint64_t> shuffle_seed = {};
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PLACEMENT_H_
