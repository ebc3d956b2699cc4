// Zone::CheckInvariants: what docs/invariants.md says of a zone, as code.

#include <cstdint>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {
namespace {

// "P1: " and the rest, streamed.
template <typename... Parts>
absl::Status Violated(const char* invariant, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return absl::InternalError(absl::StrCat(invariant, ": ", text.str()));
}

}  // namespace

absl::Status Zone::CheckInvariants() const {
  if (absl::Status status = CheckFreeLists(); !status.ok()) return status;

  PageCount managed;
  PageCount free;
  PageCount isolated;
  for (Pfn pfn = span().start; pfn < span().end;) {
    const PageInfo info = pages_.Get(pfn);
    if (info.state == PageState::kOffline) {
      pfn += PageCount(1);
      continue;
    }
    if (info.state == PageState::kTail) {
      return Violated("P1", pfn, " is a tail of no block");
    }
    if (!pfn.IsAligned(info.order)) {
      return Violated("Z1", "block at ", pfn, ", ", info, ", is not aligned");
    }
    const Pfn end = pfn + info.order.pages();
    if (end > span().end) {
      return Violated("Z1", "block at ", pfn, " leaves its zone");
    }
    for (Pfn tail = pfn + PageCount(1); tail < end; tail += PageCount(1)) {
      if (pages_.Get(tail).state != PageState::kTail) {
        return Violated("P1", tail, " is ", pages_.Get(tail),
                        " inside the block at ", pfn);
      }
    }
    managed += info.order.pages();
    if (info.state == PageState::kIsolated) isolated += info.order.pages();
    if (info.state == PageState::kFree) {
      free += info.order.pages();
      if (info.order < max_order() &&
          IsFreeBlock(pfn.Buddy(info.order), info.order)) {
        return Violated("Z2", "block at ", pfn, ", ", info.order,
                        ", and its buddy are both free");
      }
    }
    pfn = end;
  }
  if (free != free_pages()) {
    return Violated("Z3", free, " free by their states, ", free_pages(),
                    " counted");
  }
  if (isolated != isolated_pages()) {
    return Violated("Z4", isolated, " isolated by their states, ",
                    isolated_pages(), " counted");
  }
  if (managed != managed_pages()) {
    return Violated("P2", managed, " not offline, ", managed_pages(),
                    " managed");
  }
  return absl::OkStatus();
}

absl::Status Zone::CheckFreeLists() const {
  PageCount listed;
  for (int value = 0; value <= kMaxOrder.value(); ++value) {
    const Order order(value);
    const PageMap::Index list = area(order).list;
    uint64_t blocks = 0;
    // Ends even where the links go round in circles.
    for (PageMap::Index at = pages_.First(list); at != list;
         at = pages_.Next(at)) {
      const Pfn pfn(at);
      if (!span().Contains(pfn)) {
        return Violated("Z3", pfn, " is on the list of free blocks of ", order,
                        " but not in the zone");
      }
      if (!IsFreeBlock(pfn, order)) {
        return Violated("Z3", pfn, " is on the list of free blocks of ", order,
                        " but is ", pages_.Get(pfn));
      }
      if (++blocks > free_blocks(order)) {
        return Violated("Z3", "more blocks on the list of ", order,
                        " than the ", free_blocks(order), " counted");
      }
    }
    if (blocks != free_blocks(order)) {
      return Violated("Z3", blocks, " blocks on the list of ", order, ", ",
                      free_blocks(order), " counted");
    }
    listed += order.pages() * blocks;
  }
  if (listed != free_pages()) {
    return Violated("Z3", listed, " on the free lists, ", free_pages(),
                    " counted");
  }
  return absl::OkStatus();
}

}  // namespace guestmm
