// How memory joins a zone, at boot and when it is plugged, and leaves it.

#include <algorithm>
#include <bit>

#include "guestmm/base/check.h"
#include "guestmm/buddy/zone.h"
#include "src/buddy/zone_lists.h"
#include "src/buddy/zone_paths.h"

namespace guestmm {
namespace {

// The next block of kMaxOrder.
Pfn Neighbour(Pfn pfn, bool above) {
  constexpr uint64_t kPages = kMaxOrder.pages().value();
  return Pfn(above ? pfn.value() + kPages : pfn.value() - kPages);
}

}  // namespace

void Zone::TakePageblock(Pfn pfn, PfnRange range) {
  const PageMap::Pageblock was = pages_.pageblock(pfn);
  const bool first = was.zone == PageMap::Pageblock::kNoZone;
  GUESTMM_CHECK(first || IsOurs(pfn))
      << "the pageblock of " << pfn << " is another zone's";
  const Pfn end = pfn + pageblock_order().pages();
  SetPageblockType(pfn, MigrateType::kMovable);
  for (Pfn page = pfn; page < end; page += PageCount(1)) {
    const bool taken = range.start <= page && page < range.end;
    if (first && !taken) pages_.SetOffline(page);
    if (first || !taken) continue;
    GUESTMM_CHECK(pages_.IsOffline(page))
        << page << " was given to the allocator twice";
    pages_.SetTail(page);
  }
}

FreeBlockObserver* Zone::AddMemory(PfnRange range) {
  if (range.pages() == PageCount(0)) return nullptr;
  LockHolder hold(lock_);
  GUESTMM_CHECK(range.end <= pages_.end());
  const PageMap::Blocks blocks = pages_.blocks();
  const PageMap::Pageblock ours = {.zone = static_cast<uint8_t>(index())};
  const PageCount pageblock = pageblock_order().pages();
  for (Pfn pfn = range.start.AlignDown(pageblock_order()); pfn < range.end;
       pfn += pageblock) {
    const bool whole = range.start <= pfn && pfn + pageblock <= range.end;
    // The states of all pages of a new pageblock are as never written.
    if (whole &&
        blocks.pageblock(pfn).value().zone == PageMap::Pageblock::kNoZone) {
      blocks.SetPageblock(pfn, ours);
    } else {
      TakePageblock(pfn, range);
    }
  }
  const auto after = std::lower_bound(
      ranges_.begin(), ranges_.end(), range,
      [](const PfnRange& a, const PfnRange& b) { return a.start < b.start; });
  const auto added = ranges_.insert(after, range);
  const auto next = added + 1;
  if (next != ranges_.end() && added->end == next->start) {
    added->end = next->end;
    ranges_.erase(next);
  }
  if (added != ranges_.begin() && (added - 1)->end == added->start) {
    (added - 1)->end = added->end;
    ranges_.erase(added);
  }
  UpdateSpan();
  managed_pages_.Add(range.pages().value());

  FreeBlockObserver* to_wake = nullptr;
  const auto tell = [&](Block freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    ListChange change(*this);
    if (FreeBlockObserver* observer = ZonePaths::Tell(*this, change, freed))
      to_wake = observer;
  };
  for (Pfn pfn = range.start; pfn < range.end;) {
    const int aligned = std::countr_zero(pfn.value());
    const int fitting = std::bit_width((range.end - pfn).value()) - 1;
    const Order order(std::min({aligned, fitting, max_order().value()}));
    if (order < kMaxOrder) {
      tell(Insert(pfn, order, MigrateType::kMovable, cold_to_tail()));
      pfn += order.pages();
      continue;
    }
    const Pfn end = range.end.AlignDown(kMaxOrder);
    AddUntouched({pfn, end});
    if (observer_ == nullptr) pfn = end;
    for (; pfn < end; pfn += kMaxOrder.pages()) tell({pfn, kMaxOrder});
  }
  if (shuffle_) Shuffle();
  return to_wake;
}

void Zone::AddUntouched(PfnRange range) {
  const bool ascending = cold_to_tail();
  ListChange change(*this);
  change.Add(ascending ? range.start : range.end - kMaxOrder.pages(), kMaxOrder,
             MigrateType::kMovable,
             ascending ? ListEnd::kTail : ListEnd::kHead);
  change.AddPages(MigrateType::kMovable, range.pages());
  // The others are not listed, but counted.
  blocks_[static_cast<size_t>(kMaxOrder.value())].Add(
      (range.pages().value() >> kMaxOrder.value()) - 1);
}

void Zone::ListUntouched(Pfn pfn) const {
  if (!pages_.IsUntouched(pfn)) [[likely]]
    return;
  Pfn listed = pfn;
  while (pages_.IsUntouched(listed))
    listed = Neighbour(listed, !cold_to_tail());
  for (; listed != pfn; listed = Neighbour(listed, cold_to_tail())) {
    ListUntouchedAfter(listed);
  }
}

void Zone::Shuffle() {
  std::vector<Pfn> blocks;
  ForEachFreeBlock(max_order(), MigrateType::kMovable,
                   [&](Pfn pfn) { blocks.push_back(pfn); });
  shuffle_->Shuffle(std::span(blocks));
  ListChange change(*this);
  for (const Pfn pfn : blocks) {
    change.Remove(pfn, max_order());
    change.Add(pfn, max_order(), MigrateType::kMovable, ListEnd::kTail);
  }
}

void Zone::UpdateSpan() {
  span_start_.Set(ranges_.empty() ? 0 : ranges_.front().start.value());
  span_end_.Set(ranges_.empty() ? 0 : ranges_.back().end.value());
}

std::array<uint64_t, kMigrateTypes> Zone::PageblocksByType() const {
  std::array<uint64_t, kMigrateTypes> counts{};
  Pfn from(0);
  for (const PfnRange& range : ranges_) {
    // Two ranges may share a pageblock.
    from = std::max(from, range.start.AlignDown(pageblock_order()));
    for (; from < range.end; from += pageblock_order().pages()) {
      ++counts[static_cast<size_t>(pageblock_type(from))];
    }
  }
  return counts;
}

// Offlining ------------------------------------------------------------------
// Isolates the pageblocks of a range, so that pages freed there stay free, and
// removes the range from the zone once all of it is free (Linux 5.3,
// start_isolate_page_range, __offline_isolated_pages). The range consists of
// whole blocks of max_order, so no block and no merge crosses its ends.

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
