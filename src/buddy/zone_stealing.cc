// Stealing: how Zone serves a request if it has no block of the requested type
// (Linux 5.3, __rmqueue_fallback, find_suitable_fallback,
// steal_suitable_fallback). It takes the largest block of another type, and
// with a large block the whole pageblock, so that types mix as little as
// possible.

#include <algorithm>
#include <array>

#include "src/buddy/zone_lists.h"

namespace guestmm {
namespace {

// By type of the request: the types to steal from, in order.
constexpr std::array<std::array<MigrateType, 2>, kRequestTypes> kFallbacks = {
    {{MigrateType::kReclaimable, MigrateType::kMovable},    // unmovable
     {MigrateType::kReclaimable, MigrateType::kUnmovable},  // movable
     {MigrateType::kUnmovable, MigrateType::kMovable}}};    // reclaimable

// can_steal_fallback: movable pages in a pageblock of another type do no
// lasting harm, so a movable request converts a pageblock only when it takes a
// large block.
bool TakesWholePageblock(Order order, MigrateType type, Order pageblock) {
  return order.value() >= pageblock.value() / 2 ||
         type != MigrateType::kMovable;
}

}  // namespace

bool Zone::Steal(Order order, MigrateType type, Mixing mixing) {
  ListChange change(*this);
  const Order smallest =
      mixing == Mixing::kAvoid ? std::max(order, pageblock_order()) : order;
  const auto& fallbacks = kFallbacks[static_cast<size_t>(type)];
  // The first block of order `of` of the first fallback that has one; else
  // kNoPfn.
  const auto find = [&](Order of) {
    for (const MigrateType fallback : fallbacks) {
      const Pfn pfn = change.First(of, fallback);
      if (pfn != kNoPfn) return pfn;
    }
    return kNoPfn;
  };
  for (int value = max_order().value(); value >= smallest.value(); --value) {
    Order found(value);
    Pfn pfn = find(found);
    if (pfn == kNoPfn) continue;
    const bool whole = TakesWholePageblock(found, type, pageblock_order());
    if (!whole && found > order) {
      // The pageblock keeps its type, so the smallest sufficient block is best.
      found = order;
      while ((pfn = find(found)) == kNoPfn) found = Order(found.value() + 1);
    }
    StealBlock(change, pfn, found, type,
               TakesWholePageblock(found, type, pageblock_order()));
    return true;
  }
  return false;
}

void Zone::StealBlock(ListChange& change, Pfn pfn, Order order,
                      MigrateType type, bool whole_pageblock) {
  steals_.Add(1);
  if (order >= pageblock_order()) {
    for (Pfn at = pfn; at < pfn + order.pages();
         at += pageblock_order().pages()) {
      SetPageblockType(at, type);
      stolen_pageblocks_.Add(1);
    }
  }
  if (order >= pageblock_order() || !whole_pageblock) {
    change.Move(pfn, order, type);
    return;
  }
  const MigrateType old_type = pageblock_type(pfn);
  const Moved moved = MovePageblock(change, pfn, type);
  if (moved.free == PageCount(0)) {
    change.Move(pfn, order, type);
    return;
  }
  // Pages in use that presumably are of the new type.
  PageCount alike;
  if (type == MigrateType::kMovable) {
    alike = moved.movable;
  } else if (old_type == MigrateType::kMovable) {
    alike = pageblock_order().pages() - (moved.free + moved.movable);
  }
  if ((moved.free + alike) * 2 >= pageblock_order().pages()) {
    SetPageblockType(pfn, type);
    stolen_pageblocks_.Add(1);
  }
}

Zone::Moved Zone::MovePageblock(ListChange& change, Pfn pfn, MigrateType type) {
  const Pfn start = pfn.AlignDown(pageblock_order());
  PfnRange block = {start, start + pageblock_order().pages()};
  // At the edges of the zone the pageblock is partial (move_freepages_block).
  if (block.end > span().end) return {};
  if (block.start < span().start) block.start = pfn;
  Moved moved;
  for (BlockWalk walk(pages_, block); walk.Next();) {
    if (walk.state() == PageState::kFree) {
      change.Move(walk.pfn(), walk.order(), type);
      moved.free += walk.order().pages();
    } else if (walk.state() == PageState::kAllocated &&
               pages_.AllocatedAs(walk.pfn()) == MigrateType::kMovable) {
      moved.movable += std::min(walk.order(), pageblock_order()).pages();
    }
  }
  return moved;
}

}  // namespace guestmm
