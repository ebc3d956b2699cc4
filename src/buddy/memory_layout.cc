#include "guestmm/buddy/memory_layout.h"

#include <algorithm>
#include <map>

namespace guestmm {
namespace {

constexpr Pfn kDmaEnd = ToPfn(Gpa(16 * kMiB));
constexpr Pfn kDma32End = ToPfn(Gpa(4 * kGiB));
constexpr Pfn kNoEnd{~uint64_t{0}};

// The start of each node's ZONE_MOVABLE; kNoEnd for none.
std::map<int, Pfn> MovableStarts(const MemoryMap& memory, PageCount movable,
                                 Order alignment) {
  std::map<int, Pfn> starts;
  PageCount total;
  Pfn end(0);
  for (const MemoryRange& range : memory) {
    starts[range.node] = kNoEnd;
    total += range.pages().pages();
    end = std::max(end, range.end);
  }
  const PageCount rounded =
      Pfn(std::min(movable, total).value()).AlignUp(alignment) - Pfn(0);
  if (movable == PageCount(0)) return starts;
  const ZoneType highest = ZoneTypeOf(end - PageCount(1));
  const Pfn usable_from = highest == ZoneType::kDma     ? Pfn(0)
                          : highest == ZoneType::kDma32 ? kDmaEnd
                                                        : kDma32End;
  // Pages still to be given to the kernel (required_kernelcore): spread over
  // the nodes that have some left, until none are wanted. Initially none means
  // no ZONE_MOVABLE.
  PageCount wanted = rounded < total ? total - rounded : PageCount(0);
  if (wanted == PageCount(0)) return starts;
  size_t nodes = starts.size();
  std::map<int, Pfn> at;
  for (const auto& [node, start] : starts) at[node] = Pfn(0);
  while (true) {
    PageCount share(wanted.value() / nodes);
    for (auto& [node, from] : at) {
      if (wanted < share) share = PageCount(wanted.value() / nodes);
      PageCount left = share;
      for (const MemoryRange& range : memory) {
        if (range.node != node || range.end <= from) continue;
        const Pfn start = std::max(range.start, from);
        // Memory that cannot be movable counts as the kernel's, wanted or not.
        const Pfn must_end = std::clamp(usable_from, start, range.end);
        const PageCount must = must_end - start;
        const PageCount more =
            std::min(range.end - must_end, left - std::min(left, must));
        from = must_end + more;
        left -= std::min(left, must + more);
        wanted -= std::min(wanted, must + more);
        if (left == PageCount(0) && range.end > usable_from) break;
      }
    }
    if (wanted.value() < nodes || --nodes == 0) break;
  }
  for (auto& [node, start] : starts) start = at[node].AlignUp(alignment);
  return starts;
}

}  // namespace

ZoneType ZoneTypeOf(Pfn pfn) {
  if (pfn < kDmaEnd) return ZoneType::kDma;
  return pfn < kDma32End ? ZoneType::kDma32 : ZoneType::kNormal;
}

Pfn EndOfZoneType(ZoneType type) {
  switch (type) {
    case ZoneType::kDma:
      return kDmaEnd;
    case ZoneType::kDma32:
      return kDma32End;
    default:
      return kNoEnd;
  }
}

std::vector<ZoneRange> LayOutZones(const MemoryMap& memory, PageCount movable,
                                   Order alignment) {
  std::map<int, Pfn> movable_starts = MovableStarts(memory, movable, alignment);
  std::vector<ZoneRange> ranges;
  for (const MemoryRange& range : memory) {
    const Pfn movable_start = movable_starts[range.node];
    for (Pfn start = range.start; start < range.end;) {
      const ZoneType type =
          start >= movable_start ? ZoneType::kMovable : ZoneTypeOf(start);
      Pfn end = std::min(range.end, EndOfZoneType(type));
      if (start < movable_start) end = std::min(end, movable_start);
      ranges.push_back(
          {.type = type,
           .memory = {.start = start, .end = end, .node = range.node}});
      start = end;
    }
  }
  return ranges;
}

}  // namespace guestmm
