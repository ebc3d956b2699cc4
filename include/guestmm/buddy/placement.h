#ifndef GUESTMM_BUDDY_PLACEMENT_H_
#define GUESTMM_BUDDY_PLACEMENT_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"

namespace guestmm {

// A kernel whose allocator is modelled: 5.3, which v12 was posted for; 6.1, as
// its stable releases are since 6.1.104, on which the recordings were made.
enum class KernelVersion {
  kV5_3,
  kV6_1,
};

// The places at which blocks are inserted into their free lists, which decide
// what memory is reused soon and what the host can reclaim. In 5.3 at the head,
// but at the tail if a merge is likely soon. In 6.1 also at the tail: memory
// added at boot or onlined, blocks returned after isolation, and blocks that
// change their migratetype.
struct PlacementOptions {
  KernelVersion rules = KernelVersion::kV5_3;
  // The seed of page shuffling (CONFIG_SHUFFLE_PAGE_ALLOCATOR,
  // page_alloc.shuffle=1): blocks of the largest order are initially in random
  // order, and are later inserted at a random end. Unset: no shuffling.
  std::optional<uint64_t> shuffle_seed = {};
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PLACEMENT_H_
