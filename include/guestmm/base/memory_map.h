#ifndef GUESTMM_BASE_MEMORY_MAP_H_
#define GUESTMM_BASE_MEMORY_MAP_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// Page frames [start, end) of one NUMA node.
struct MemoryRange {
  Pfn start;
  Pfn end;
  int node = 0;

  constexpr PfnRange pages() const { return {.start = start, .end = end}; }
  bool operator==(const MemoryRange&) const = default;
};

// The page frames of a guest that are RAM, and their nodes: its e820 map and
// SRAT in one. A value: the ranges as given. Consumers (PageAllocator,
// GuestRam) check that they are non-empty, ascending and disjoint.
//
//   MemoryMap::Pc(5 * kGiB)                               // 0-3G, 4G-6G
//   MemoryMap::Parse("0-3G,4G-31G@0,31G-61G@1")
//   MemoryMap{{Pfn(0), Pfn(512)}, {Pfn(512), Pfn(1024), /*node=*/1}}
class MemoryMap {
 public:
  using value_type = MemoryRange;
  using const_iterator = std::vector<MemoryRange>::const_iterator;

  MemoryMap() = default;
  MemoryMap(std::initializer_list<MemoryRange> ranges) : ranges_(ranges) {}
  // Implicit: a list of ranges is a memory map.
  // NOLINTNEXTLINE(google-explicit-constructor)
  MemoryMap(std::vector<MemoryRange> ranges) : ranges_(std::move(ranges)) {}

  // The layout of a PC with `bytes` of RAM, rounded down to whole pages: up to
  // 3 GiB below the PCI hole, the rest from 4 GiB upwards. Each of the nodes
  // gets an equal share in whole pageblocks; the last one also gets the
  // remainder. REQUIRES: nodes >= 1.
  static MemoryMap Pc(uint64_t bytes, uint64_t nodes = 1);

  // Parses comma-separated ranges START-END or START-END@NODE of guest-physical
  // byte addresses, END exclusive, NODE 0 if not given. Addresses are written
  // as for ParseBytes. InvalidArgument unless they are page-aligned and the
  // ranges non-empty, ascending and disjoint; it quotes the text and the
  // offending part, and gives the part's position (from 1) and the rule.
  static absl::StatusOr<MemoryMap> Parse(std::string_view text);

  // The whole pages in each of `ranges`, on node 0. Ranges without a whole page
  // are left out.
  static MemoryMap WholePages(std::span<const GpaRange> ranges);

  bool empty() const { return ranges_.empty(); }
  size_t size() const { return ranges_.size(); }
  const_iterator begin() const { return ranges_.begin(); }
  const_iterator end() const { return ranges_.end(); }
  // REQUIRES: !empty().
  const MemoryRange& front() const { return ranges_.front(); }
  const MemoryRange& back() const { return ranges_.back(); }

  // The sum of the ranges' sizes.
  uint64_t bytes() const;
  // The same memory as GuestRamOptions::regions takes it. Adjacent ranges are
  // joined, whatever their nodes: a block may span two nodes' ranges but must
  // lie in one region.
  std::vector<GpaRange> regions() const;

  bool operator==(const MemoryMap&) const = default;

 private:
  std::vector<MemoryRange> ranges_;
};

// Text that MemoryMap::Parse reads.
std::string FormatMemoryMap(std::span<const GpaRange> ranges);

}  // namespace guestmm

#endif  // GUESTMM_BASE_MEMORY_MAP_H_
