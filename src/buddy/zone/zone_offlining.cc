// Offlining: isolates the pageblocks of a range, so that pages freed there stay
// free, and removes the range from the zone once all of it is free (Linux 5.3,
// start_isolate_page_range, __offline_isolated_pages).
//
// The range consists of whole blocks of max_order, so no block and no merge
// crosses its ends.

#include "guestmm/base/check.h"
#include "src/buddy/zone/zone_lists.h"

namespace guestmm {

std::vector<MigrateType> Zone::IsolatePageblocks(PfnRange range) {
  std::vector<MigrateType> types;
  for (Pfn pfn = range.start; pfn < range.end;
       pfn += pageblock_order().pages()) {
    types.push_back(pageblock_type(pfn));
    SetPageblockType(pfn, MigrateType::kIsolate);
    ++isolate_pageblocks_;
  }
  ListChange change(*this);
  for (BlockWalk walk(pages_, range); walk.Next();) {
    if (walk.state() != PageState::kFree) continue;
    change.Move(walk.pfn(), walk.order(), MigrateType::kIsolate);
    change.SubtractPages(MigrateType::kMovable, walk.order().pages());
    change.AddPages(MigrateType::kIsolate, walk.order().pages());
  }
  return types;
}

void Zone::RestorePageblocks(PfnRange range,
                             std::span<const MigrateType> types) {
  size_t i = 0;
  for (Pfn pfn = range.start; pfn < range.end;
       pfn += pageblock_order().pages()) {
    SetPageblockType(pfn, types[i++]);
    --isolate_pageblocks_;
  }
  ListChange change(*this);
  for (BlockWalk walk(pages_, range); walk.Next();) {
    if (walk.state() != PageState::kFree) continue;
    change.Move(walk.pfn(), walk.order(), pageblock_type(walk.pfn()));
    change.SubtractPages(MigrateType::kIsolate, walk.order().pages());
    change.AddPages(MigrateType::kMovable, walk.order().pages());
  }
}

Zone::Busy Zone::FindBusy(PfnRange range) const {
  Busy busy;
  for (BlockWalk walk(pages_, range); walk.Next();) {
    if (walk.state() == PageState::kFree) continue;
    std::optional<Pfn>& first =
        walk.state() == PageState::kIsolated ? busy.isolated : busy.in_use;
    if (!first) first = walk.pfn();
  }
  return busy;
}

void Zone::RemoveMemory(PfnRange range) {
  const Busy busy = FindBusy(range);
  GUESTMM_CHECK(!busy.in_use && !busy.isolated)
      << busy.in_use.value_or(busy.isolated.value_or(Pfn(0)))
      << " must be free to be removed";
  ListChange change(*this);
  for (BlockWalk walk(pages_, range); walk.Next();) {
    change.Remove(walk.pfn(), walk.order());
    offlining_pages_.Subtract(walk.order().pages().value());
  }
  for (Pfn pfn = range.start; pfn < range.end;
       pfn += pageblock_order().pages()) {
    GUESTMM_CHECK(pageblock_type(pfn) == MigrateType::kIsolate);
    --isolate_pageblocks_;
    // In this order: a head that was never written is untouched.
    pages_.SetPageblock(pfn, {});
    pages_.SetTail(pfn);
  }
  std::vector<PfnRange> left;
  for (const PfnRange& part : ranges_) {
    if (part.end <= range.start || part.start >= range.end) {
      left.push_back(part);
      continue;
    }
    if (part.start < range.start) left.push_back({part.start, range.start});
    if (part.end > range.end) left.push_back({range.end, part.end});
  }
  ranges_ = std::move(left);
  UpdateSpan();
  managed_pages_.Subtract(range.pages().value());
}

}  // namespace guestmm
