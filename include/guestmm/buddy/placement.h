#ifndef GUESTMM_BUDDY_PLACEMENT_H_
#define GUESTMM_BUDDY_PLACEMENT_H_

#include <array>
#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"

namespace GUESTMM_EXPORT guestmm {

// A kernel whose allocator is modelled. docs/policies.md (The guest's kernel)
// says which others share its rules.
enum class KernelVersion {
  kV5_3,   // which v12 was posted for
  kV6_1,   // as its stable releases are since 6.1.104
  kV6_12,  // and 6.7 to 6.11
};

// The versions' names, in the enum's order.
inline constexpr std::array kKernelVersionNames = {"5.3", "6.1", "6.12"};

// The places at which blocks are inserted into their free lists, which decide
// what memory is reused soon and what the host can reclaim. In 5.3 at the head,
// but at the tail if a merge is likely soon. In 6.1 and 6.12 also at the tail:
// memory added at boot or onlined, blocks returned after isolation, and blocks
// that change their migratetype.
struct PlacementOptions {
  KernelVersion rules = KernelVersion::kV5_3;
  // The seed of page shuffling (CONFIG_SHUFFLE_PAGE_ALLOCATOR,
  // page_alloc.shuffle=1): blocks of the largest order are initially in random
  // order, and are later inserted at a random end. Unset: no shuffling.
  std::optional<uint64_t> shuffle_seed = {};
};

// kAllow if a request may steal a block smaller than a pageblock from another
// migratetype. kAvoid: ALLOC_NOFRAGMENT.
enum class Mixing : bool { kAvoid, kAllow };

// The place at which Return inserts a block into its free list: where Free
// would, or at the tail, to be allocated last, since the host must fault it in
// again (__putback_isolated_page).
enum class ReturnTo : bool { kItsPlace, kTail };

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PLACEMENT_H_
