#ifndef GUESTMM_SIM_MEMORY_MAP_H_
#define GUESTMM_SIM_MEMORY_MAP_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/buddy/memory_layout.h"

namespace guestmm {

// Where a guest has memory, as a person writes it: guest-physical addresses in
// bytes, each range without its end, and its node where that is not 0.
//
//   ParseMemoryMap("0-3G,4G-31G@0,31G-61G@1")
//
// Addresses as ParseBytes takes them. InvalidArgument, with the whole text, the
// part at fault, where in the text that is (from 1), and what is allowed there,
// unless they are of whole pages, and the ranges non-empty, ascending and
// disjoint. What else an allocator wants of its memory is for it to say.
absl::StatusOr<std::vector<MemoryRange>> ParseMemoryMap(std::string_view text);

}  // namespace guestmm

#endif  // GUESTMM_SIM_MEMORY_MAP_H_
