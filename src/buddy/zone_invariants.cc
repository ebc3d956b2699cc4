// Zone::CheckInvariants: the invariants of a zone in docs/invariants.md.

#include <bit>
#include <cstdint>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {
namespace {

// Makes an error of an invariant's name and streamed parts.
template <typename... Parts>
absl::Status Violated(const char* invariant, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return absl::InternalError(absl::StrCat(invariant, ": ", text.str()));
}

}  // namespace

absl::Status Zone::CheckInvariants() const {
  absl::Status status = CheckFreeLists();
  if (status.ok()) status = CheckBlocks();
  return status;
}

absl::Status Zone::CheckBlocks() const {
  PageCount managed;
  PageCount free;
  PageCount offlining;
  PageCount isolated;
  for (const PfnRange& range : ranges_) {
    for (Pfn pfn = range.start; pfn < range.end;) {
      const PageInfo info = pages_.Get(pfn);
      if (info.state == PageState::kOffline) {
        return Violated("P1", pfn, " is in the zone but offline");
      }
      if (info.state == PageState::kTail) {
        return Violated("P1", pfn, " is a tail of no block");
      }
      if (!pfn.IsAligned(info.order)) {
        return Violated("Z1", "block at ", pfn, ", ", info, ", is not aligned");
      }
      const Pfn end = pfn + info.order.pages();
      if (end > range.end) {
        return Violated("Z1", "block at ", pfn, " leaves its zone's memory");
      }
      const MigrateType type = pages_.pageblock(pfn).type;
      for (Pfn page = pfn; page < end; page += PageCount(1)) {
        if (page > pfn && !pages_.IsTail(page)) {
          return Violated("P1", page, " is ", pages_.Get(page),
                          " inside the block at ", pfn);
        }
        if (!IsOurs(page)) {
          return Violated("Z5", "the pageblock of ", page,
                          " is not in the zone");
        }
        const MigrateType here = pages_.pageblock(page).type;
        if (info.state == PageState::kFree && here != type &&
            (here == MigrateType::kIsolate || type == MigrateType::kIsolate)) {
          return Violated("Z6", "only part of the free block at ", pfn,
                          " is being offlined");
        }
      }
      managed += info.order.pages();
      if (info.state == PageState::kIsolated) isolated += info.order.pages();
      if (info.state == PageState::kFree) {
        (type == MigrateType::kIsolate ? offlining : free) +=
            info.order.pages();
        const Pfn buddy = pfn.Buddy(info.order);
        if (info.order < max_order() && pages_.IsFree(buddy, info.order) &&
            IsOurs(buddy) &&
            (pages_.pageblock(buddy).type == MigrateType::kIsolate) ==
                (type == MigrateType::kIsolate)) {
          return Violated("Z2", "block at ", pfn, ", ", info.order,
                          ", and its buddy are both free");
        }
      }
      pfn = end;
    }
  }
  if (free != free_pages()) {
    return Violated("Z3", free, " free by their states, ", free_pages(),
                    " counted");
  }
  if (offlining != offlining_pages()) {
    return Violated("Z6", offlining, " free and being offlined, ",
                    offlining_pages(), " counted");
  }
  if (isolated != isolated_pages()) {
    return Violated("Z4", isolated, " isolated by their states, ",
                    isolated_pages(), " counted");
  }
  if (managed != managed_pages()) {
    return Violated("P2", managed, " in the zone's memory, ", managed_pages(),
                    " managed");
  }
  const auto by_type = PageblocksByType();
  if (by_type[static_cast<size_t>(MigrateType::kIsolate)] !=
      isolate_pageblocks_) {
    return Violated("Z6", by_type[static_cast<size_t>(MigrateType::kIsolate)],
                    " pageblocks isolated, ", isolate_pageblocks_, " counted");
  }
  return absl::OkStatus();
}

absl::Status Zone::CheckFreeLists() const {
  PageCount on_lists;
  const PageMap::Lists lists = pages_.lists();
  for (int value = 0; value <= kMaxOrder.value(); ++value) {
    const Order order(value);
    uint64_t blocks = 0;
    for (int t = 0; t < kMigrateTypes; ++t) {
      const auto type = static_cast<MigrateType>(t);
      const PageMap::Index list = List(order, type);
      PageMap::Index prev = list;
      // Ends even if the links form a cycle.
      for (PageMap::Index at = lists.First(list); at != list;
           prev = at, at = lists.Next(at)) {
        const Pfn pfn(at);
        if (pfn >= pages_.end() || !IsOurs(pfn)) {
          return Violated("Z3", pfn, " is on the list of free blocks of ",
                          order, " but not in the zone");
        }
        if (!pages_.IsFree(pfn, order)) {
          return Violated("Z3", pfn, " is on the list of free blocks of ",
                          order, " but is ", pages_.Get(pfn));
        }
        if (lists.Prev(at) != prev) {
          return Violated("Z7", pfn, " does not link back to its predecessor");
        }
        const MigrateType pageblock = pages_.pageblock(pfn).type;
        if ((pageblock == MigrateType::kIsolate) !=
            (type == MigrateType::kIsolate)) {
          return Violated("Z6", pfn, " is on a list of type ", Name(type),
                          ", its pageblock is ", Name(pageblock));
        }
        if (!retyped_ && steals() == 0 && pageblock != type) {
          return Violated("Z9", pfn, " is on a list of type ", Name(type),
                          ", its pageblock is ", Name(pageblock));
        }
        ++blocks;
        if (order == kMaxOrder) {
          for (Pfn next = UntouchedAfter(pfn); next != kNoPfn;
               next = UntouchedAfter(next)) {
            ++blocks;
          }
        }
        if (blocks > free_blocks(order)) {
          return Violated("Z3", "more blocks on the lists of ", order,
                          " than the ", free_blocks(order), " counted");
        }
      }
      if (lists.Prev(list) != prev) {
        return Violated("Z7", "the list of ", order, ", ", Name(type),
                        ", does not link back to its last block");
      }
      const bool marked = (nonempty_.Get() >> Bit(order, type) & 1) != 0;
      if (marked == lists.Empty(list)) {
        return Violated("Z7", "the list of ", order, ", ", Name(type), ", is ",
                        marked ? "marked but empty" : "in use but not marked");
      }
    }
    if (blocks != free_blocks(order)) {
      return Violated("Z3", blocks, " blocks on the lists of ", order, ", ",
                      free_blocks(order), " counted");
    }
    on_lists += order.pages() * blocks;
  }
  if (on_lists != free_pages() + offlining_pages()) {
    return Violated("Z3", on_lists, " on the free lists, ",
                    free_pages() + offlining_pages(), " counted");
  }
  return absl::OkStatus();
}

}  // namespace guestmm
