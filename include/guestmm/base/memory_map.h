#ifndef GUESTMM_BASE_MEMORY_MAP_H_
#define GUESTMM_BASE_MEMORY_MAP_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"

namespace guestmm {

// A node's page frames [start, end).
struct MemoryRange {
  Pfn start;
  Pfn end;
  int node = 0;

  constexpr PfnRange pages() const { return {.start = start, .end = end}; }
  bool operator==(const MemoryRange&) const = default;
};

// Where a PC with `bytes` of RAM has it: up to 3 GiB below 4 GiB, the rest from
// 4 GiB upwards.
std::vector<GpaRange> PcMemory(uint64_t bytes);
// The same, `nodes` nodes sharing it evenly.
std::vector<MemoryRange> PcMemory(uint64_t bytes, uint64_t nodes);

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

#endif  // GUESTMM_BASE_MEMORY_MAP_H_
