#include "tests/testing/zone_model.h"

#include <algorithm>

namespace guestmm::buddy {
namespace {

constexpr MigrateType kUnmovable = MigrateType::kUnmovable;
constexpr MigrateType kMovable = MigrateType::kMovable;
constexpr MigrateType kReclaimable = MigrateType::kReclaimable;
constexpr MigrateType kIsolate = MigrateType::kIsolate;

uint64_t Pages(int order) { return uint64_t{1} << order; }

// By type of the request: the types to steal from, in order.
std::vector<MigrateType> FallbacksOf(MigrateType type) {
  if (type == kUnmovable) return {kReclaimable, kMovable};
  if (type == kMovable) return {kReclaimable, kUnmovable};
  return {kUnmovable, kMovable};
}

}  // namespace

ZoneModel::ZoneModel(const Rules& rules) : rules_(rules) {
  for (Lists& lists : lists_) {
    lists.resize(static_cast<size_t>(rules.max_order) + 1);
  }
  if (rules.placement.shuffle_seed) {
    random_.emplace(*rules.placement.shuffle_seed);
  }
}

std::vector<FreeBlock> ZoneModel::AddMemory(PfnRange range) {
  for (uint64_t pfn = range.start.value(); pfn < range.end.value(); ++pfn) {
    pageblocks_[pfn >> rules_.pageblock_order] = kMovable;
  }
  std::vector<FreeBlock> freed;
  for (uint64_t pfn = range.start.value(); pfn < range.end.value();) {
    int order = rules_.max_order;
    while (pfn % Pages(order) != 0 || pfn + Pages(order) > range.end.value()) {
      --order;
    }
    blocks_[pfn] = {PageState::kOffline, order};
    freed.push_back(Free(pfn, kMovable, cold_to_tail()));
    pfn += Pages(order);
  }
  if (random_) {
    std::list<uint64_t>& list = List(rules_.max_order, kMovable);
    std::vector<uint64_t> blocks(list.begin(), list.end());
    random_->Shuffle(std::span(blocks));
    list.assign(blocks.begin(), blocks.end());
  }
  return freed;
}

void ZoneModel::RemoveMemory(PfnRange range) {
  for (uint64_t pfn = range.start.value(); pfn < range.end.value(); ++pfn) {
    if (blocks_.contains(pfn)) {
      Unlist(pfn);
      blocks_.erase(pfn);
    }
    pageblocks_.erase(pfn >> rules_.pageblock_order);
  }
}

std::map<uint64_t, ZoneModel::Block>::const_iterator ZoneModel::BlockOf(
    uint64_t pfn) const {
  auto at = blocks_.upper_bound(pfn);
  if (at == blocks_.begin()) return blocks_.end();
  --at;
  return pfn < at->first + Pages(at->second.order) ? at : blocks_.end();
}

bool ZoneModel::HasAll(PfnRange range) const {
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    if (!Has(pfn.value())) return false;
  }
  return true;
}

PfnRange ZoneModel::span() const {
  if (blocks_.empty()) return {};
  const auto& [last, block] = *blocks_.rbegin();
  return {Pfn(blocks_.begin()->first), Pfn(last + Pages(block.order))};
}

uint64_t ZoneModel::managed() const {
  uint64_t pages = 0;
  for (const auto& [pfn, block] : blocks_) pages += Pages(block.order);
  return pages;
}

uint64_t ZoneModel::PagesIn(PageState state) const {
  uint64_t pages = 0;
  for (const auto& [pfn, block] : blocks_) {
    if (block.state == state) pages += Pages(block.order);
  }
  return pages;
}

uint64_t ZoneModel::free() const {
  uint64_t pages = 0;
  for (const auto& [pfn, block] : blocks_) {
    if (block.state == PageState::kFree && TypeAt(pfn) != kIsolate) {
      pages += Pages(block.order);
    }
  }
  return pages;
}

// True if more than `mark` pages stay free, counting the block's first page,
// and there is a sufficient block.
bool ZoneModel::WatermarkOk(int order, uint64_t mark) const {
  const auto left =
      static_cast<int64_t>(free()) - static_cast<int64_t>(Pages(order) - 1);
  if (left <= static_cast<int64_t>(mark)) return false;
  if (order == 0) return true;
  for (const MigrateType type : {kUnmovable, kMovable, kReclaimable}) {
    for (int at = order; at <= rules_.max_order; ++at) {
      if (!lists(type)[static_cast<size_t>(at)].empty()) return true;
    }
  }
  return false;
}

std::optional<uint64_t> ZoneModel::Allocate(int order, MigrateType type,
                                            Mixing mixing, PageState state) {
  std::optional<uint64_t> pfn = TakeSmallest(order, type);
  while (!pfn && Steal(order, type, mixing)) pfn = TakeSmallest(order, type);
  if (pfn) blocks_[*pfn] = {state, order, type};
  return pfn;
}

// The first block of the smallest sufficient order; frees the upper halves.
std::optional<uint64_t> ZoneModel::TakeSmallest(int order, MigrateType type) {
  for (int at = order; at <= rules_.max_order; ++at) {
    if (List(at, type).empty()) continue;
    const uint64_t pfn = List(at, type).front();
    List(at, type).pop_front();
    while (at > order) {
      --at;
      blocks_[pfn + Pages(at)] = {PageState::kFree, at};
      List(at, type).push_front(pfn + Pages(at));
    }
    return pfn;
  }
  return std::nullopt;
}

// Steals a block of another type: the largest, so that pageblocks are mixed
// least often. A movable request, whose pages can leave again, may not convert
// a small block's pageblock; it takes the smallest block.
bool ZoneModel::Steal(int order, MigrateType type, Mixing mixing) {
  const int pageblock = rules_.pageblock_order;
  const auto donor = [&](int of) -> std::optional<MigrateType> {
    for (const MigrateType other : FallbacksOf(type)) {
      if (!List(of, other).empty()) return other;
    }
    return std::nullopt;
  };
  const auto whole = [&](int of) {
    return of >= pageblock || of >= pageblock / 2 || type != kMovable;
  };
  int lowest = order;
  if (mixing == Mixing::kAvoid && lowest < pageblock) lowest = pageblock;
  int largest = rules_.max_order;
  while (largest >= lowest && !donor(largest)) --largest;
  if (largest < lowest) return false;
  int take = largest;
  if (!whole(largest)) {
    take = order;
    while (!donor(take)) ++take;
  }
  StealBlock(List(take, *donor(take)).front(), type, whole(take));
  return true;
}

void ZoneModel::StealBlock(uint64_t pfn, MigrateType type,
                           bool whole_pageblock) {
  ++steals;
  const int order = blocks_.at(pfn).order;
  if (order >= rules_.pageblock_order) {
    SetType(pfn, order, type);
    stolen_pageblocks += Pages(order - rules_.pageblock_order);
    Move(pfn, type);
    return;
  }
  if (!whole_pageblock) {
    Move(pfn, type);
    return;
  }
  // The pageblock's other free blocks are stolen too. At the zone's start only
  // those above the block; a pageblock that crosses the zone's end is left
  // alone.
  const uint64_t size = Pages(rules_.pageblock_order);
  uint64_t start = pfn / size * size;
  const uint64_t end = start + size;
  if (end > span().end.value()) {
    Move(pfn, type);
    return;
  }
  if (start < span().start.value()) start = pfn;
  const MigrateType before = TypeAt(pfn);
  uint64_t free_pages = 0;
  uint64_t movable_pages = 0;
  for (uint64_t page = start; page < end; ++page) {
    const auto at = BlockOf(page);
    if (at == blocks_.end()) continue;
    const Block& block = at->second;
    if (block.state == PageState::kFree) {
      ++free_pages;
      if (at->first == page) Move(page, type);
    } else if (block.state == PageState::kAllocated && block.as == kMovable) {
      ++movable_pages;
    }
  }
  // Pages in use that may be of the new type. One that is not movable may be of
  // either of the other two.
  uint64_t alike = 0;
  if (type == kMovable) {
    alike = movable_pages;
  } else if (before == kMovable) {
    alike = size - free_pages - movable_pages;
  }
  if (free_pages + alike >= size / 2) {
    SetType(pfn, 0, type);
    ++stolen_pageblocks;
  }
}

bool ZoneModel::IsFree(uint64_t pfn, int order) const {
  const auto at = blocks_.find(pfn);
  return at != blocks_.end() && at->second.state == PageState::kFree &&
         at->second.order == order;
}

void ZoneModel::Unlist(uint64_t pfn) {
  for (Lists& lists : lists_) {
    for (std::list<uint64_t>& list : lists) list.remove(pfn);
  }
}

void ZoneModel::Move(uint64_t pfn, MigrateType type) {
  Unlist(pfn);
  std::list<uint64_t>& list = List(blocks_.at(pfn).order, type);
  if (cold_to_tail()) {
    list.push_back(pfn);
  } else {
    list.push_front(pfn);
  }
}

void ZoneModel::SetType(uint64_t pfn, int order, MigrateType type) {
  for (uint64_t page = pfn; page < pfn + Pages(order); ++page) {
    pageblocks_[page >> rules_.pageblock_order] = type;
  }
}

FreeBlock ZoneModel::Free(uint64_t pfn, MigrateType type, bool to_tail) {
  int order = blocks_.at(pfn).order;
  blocks_.erase(pfn);
  while (order < rules_.max_order) {
    const uint64_t buddy = pfn ^ Pages(order);
    if (!IsFree(buddy, order)) break;
    // Blocks being offlined do not merge with others.
    if (order >= rules_.pageblock_order &&
        (TypeAt(buddy) == kIsolate) != (type == kIsolate)) {
      break;
    }
    Unlist(buddy);
    blocks_.erase(buddy);
    pfn = std::min(pfn, buddy);
    ++order;
  }
  blocks_[pfn] = {PageState::kFree, order};

  if (!to_tail) {
    if (random_ && order == rules_.max_order) {
      to_tail = random_->OneIn(2);
    } else if (order + 1 < rules_.max_order) {
      // If the buddy of the next larger block is free, all four quarters are
      // likely to merge soon.
      const uint64_t twice = Pages(order + 1);
      to_tail = IsFree(pfn / twice * twice ^ twice, order + 1);
    }
  }
  std::list<uint64_t>& list = List(order, type);
  if (to_tail) {
    list.push_back(pfn);
  } else {
    list.push_front(pfn);
  }
  return {pfn, order};
}

FreeBlock ZoneModel::Return(uint64_t pfn, ReturnTo to) {
  return Free(pfn, TypeAt(pfn), to == ReturnTo::kTail || cold_to_tail());
}

bool ZoneModel::Isolate(uint64_t pfn) {
  Block& block = blocks_.at(pfn);
  if (TypeAt(pfn) == kIsolate) return false;
  if (free() - Pages(block.order) <= marks.min.value() ||
      free() < Pages(block.order)) {
    return false;
  }
  Unlist(pfn);
  block.state = PageState::kIsolated;
  block.reported = false;
  // Isolating half a pageblock or more makes the pageblock movable.
  if (block.order >= rules_.pageblock_order - 1) {
    SetType(pfn, block.order, kMovable);
  }
  return true;
}

std::optional<FreeBlock> ZoneModel::FreeBlockAround(uint64_t pfn) const {
  const auto at = BlockOf(pfn);
  if (at == blocks_.end()) return std::nullopt;
  const auto& [head, block] = *at;
  if (block.state != PageState::kFree) return std::nullopt;
  return FreeBlock(head, block.order);
}

MigrateType ZoneModel::ListTypeOf(uint64_t pfn) const {
  const auto order = static_cast<size_t>(blocks_.at(pfn).order);
  int type = 0;
  const auto listed = [&] {
    const auto& list = lists(static_cast<MigrateType>(type))[order];
    return std::find(list.begin(), list.end(), pfn) != list.end();
  };
  while (!listed()) ++type;
  return static_cast<MigrateType>(type);
}

void ZoneModel::Rotate(uint64_t pfn) {
  std::list<uint64_t>& list = List(blocks_.at(pfn).order, ListTypeOf(pfn));
  while (list.front() != pfn) {
    list.push_back(list.front());
    list.pop_front();
  }
}

std::vector<MigrateType> ZoneModel::IsolatePageblocks(PfnRange range) {
  std::vector<MigrateType> types;
  const uint64_t size = Pages(rules_.pageblock_order);
  for (uint64_t pfn = range.start.value(); pfn < range.end.value();
       pfn += size) {
    types.push_back(TypeAt(pfn));
    SetType(pfn, 0, kIsolate);
    for (uint64_t page = pfn; page < pfn + size; ++page) {
      const auto at = blocks_.find(page);
      if (at != blocks_.end() && at->second.state == PageState::kFree) {
        Move(page, kIsolate);
      }
    }
  }
  return types;
}

void ZoneModel::RestorePageblocks(PfnRange range,
                                  const std::vector<MigrateType>& types) {
  const uint64_t size = Pages(rules_.pageblock_order);
  for (size_t i = 0; i < types.size(); ++i) {
    const uint64_t pfn = range.start.value() + i * size;
    SetType(pfn, 0, types[i]);
    for (uint64_t page = pfn; page < pfn + size; ++page) {
      const auto at = blocks_.find(page);
      if (at != blocks_.end() && at->second.state == PageState::kFree) {
        Move(page, types[i]);
      }
    }
  }
}

}  // namespace guestmm::buddy
