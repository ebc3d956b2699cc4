#include "tests/testing/buddy_model.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace guestmm::buddy {
namespace {

constexpr uint64_t kDmaEnd = 16 * kMiB / kPageSize;
constexpr uint64_t kDma32End = 4 * kGiB / kPageSize;

constexpr MigrateType kUnmovable = MigrateType::kUnmovable;
constexpr MigrateType kMovable = MigrateType::kMovable;
constexpr MigrateType kReclaimable = MigrateType::kReclaimable;
constexpr MigrateType kIsolate = MigrateType::kIsolate;

uint64_t Pages(int order) { return uint64_t{1} << order; }

// Whom a request takes from where its own type has nothing.
std::vector<MigrateType> FallbacksOf(MigrateType type) {
  if (type == kUnmovable) return {kReclaimable, kMovable};
  if (type == kMovable) return {kReclaimable, kUnmovable};
  return {kUnmovable, kMovable};
}

}  // namespace

// Zone -----------------------------------------------------------------------

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

// More than `mark` pages stay free, the block's first page counted as one of
// them; and there is a block to take.
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

// The first block of the smallest order; its upper halves stay.
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

// Makes blocks of another type this type's: as large a block as there is, which
// splits others' memory least often. A request for movable pages, which leave
// again, may not take a small block's pageblock; it makes do with the smallest
// block.
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
  // The free blocks of its pageblock go along. At the zone's start only what is
  // behind the block; a pageblock that the zone's end cuts is left alone.
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
  // Pages in use that might be of the new type. Of what is not movable no one
  // knows which of the other two it is.
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
    // What goes offline does not merge with what stays.
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
      // If the block of the next order, which this is a half of, has its buddy
      // free, all four quarters are likely to be one soon.
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

FreeBlock ZoneModel::Return(uint64_t pfn) {
  return Free(pfn, TypeAt(pfn), cold_to_tail());
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
  // Half a pageblock of free pages makes it one for movable pages.
  if (block.order >= rules_.pageblock_order - 1) {
    SetType(pfn, block.order, kMovable);
  }
  return true;
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

// Allocator ------------------------------------------------------------------

AllocatorModel::AllocatorModel(const PageAllocatorOptions& options,
                               Order observed_from)
    : options_(options),
      pageblock_order_(
          options.pageblock_order
              ? options.pageblock_order->value()
              : std::min(kPageblockOrder.value(), options.max_order.value())),
      observed_from_(observed_from.value()) {
  for (const MemoryRange& range : options.memory) {
    nodes_ = std::max(nodes_, static_cast<size_t>(range.node) + 1);
  }
  for (size_t i = 0; i < nodes_ * kZoneTypes; ++i) {
    zones_.emplace_back(ZoneModel::Rules{.max_order = options.max_order.value(),
                                         .pageblock_order = pageblock_order_,
                                         .placement = options.placement});
  }
  // Where ZONE_MOVABLE is is the layout's business, which has tests of its own.
  for (const ZoneRange& range :
       LayOutZones(options.memory, options.movable, options.max_order)) {
    const auto type =
        static_cast<size_t>(range.type == ZoneType::kMovable         ? 3
                            : range.memory.start.value() < kDmaEnd   ? 0
                            : range.memory.start.value() < kDma32End ? 1
                                                                     : 2);
    zones_[static_cast<size_t>(range.memory.node) * kZoneTypes + type]
        .AddMemory(range.memory.pages());
  }
  cpu_lists_.resize(static_cast<size_t>(options.cpus) * zones_.size());
  ZonesResized();
  // The observer is told of all that is there, adjoining ranges as one.
  for (size_t zone = 0; zone < zones_.size(); ++zone) {
    std::vector<PfnRange> ranges;
    for (const auto& [pfn, block] : zones_[zone].blocks()) {
      const Pfn end(pfn + Pages(block.order));
      if (!ranges.empty() && ranges.back().end == Pfn(pfn)) {
        ranges.back().end = end;
      } else {
        ranges.push_back({Pfn(pfn), end});
      }
    }
    for (const PfnRange& range : ranges) {
      told_.memory.push_back(ToldOfMemory(true, zone, range));
    }
  }
}

std::string AllocatorModel::ToldOfMemory(bool online, size_t zone,
                                         PfnRange range) {
  return absl::StrCat(online ? "+" : "-", zone, ":", range.start.value(), "-",
                      range.end.value());
}

// Watermarks and lowmem_reserve (setup_per_zone_wmarks,
// setup_per_zone_lowmem_reserve).
void AllocatorModel::ZonesResized() {
  uint64_t all = 0;
  for (const ZoneModel& zone : zones_) all += zone.managed();
  const uint64_t pages_min = *options_.min_free_kbytes / 4;
  for (size_t i = 0; i < zones_.size(); ++i) {
    ZoneModel& zone = zones_[i];
    const uint64_t managed = zone.managed();
    const uint64_t min = all == 0 ? 0 : pages_min * managed / all;
    const uint64_t step = std::max(min / 4, managed / 1000);
    zone.marks = {.min = PageCount(min),
                  .low = PageCount(min + step),
                  .high = PageCount(min + 2 * step)};
    constexpr std::array<uint64_t, 3> kRatios = {256, 256, 32};
    const size_t type = i % kZoneTypes;
    uint64_t above = 0;
    for (size_t other = type + 1; other < kZoneTypes; ++other) {
      above += zones_[i - type + other].managed();
      zone.reserve[other] = PageCount(above / kRatios[type]);
    }
  }
}

size_t AllocatorModel::ZoneOf(uint64_t pfn) const {
  size_t zone = 0;
  while (!zones_[zone].Has(pfn)) ++zone;
  return zone;
}

// The first cpus are on the first node.
size_t AllocatorModel::NodeOf(int cpu) const {
  return static_cast<size_t>(cpu) * nodes_ / static_cast<size_t>(options_.cpus);
}

std::vector<size_t> AllocatorModel::Zonelist(int cpu, const Gfp& gfp) const {
  const size_t first =
      gfp.node < 0 ? NodeOf(cpu) : static_cast<size_t>(gfp.node);
  std::vector<size_t> list;
  for (size_t i = 0; i < (gfp.this_node_only ? 1 : nodes_); ++i) {
    const size_t node = (first + i) % nodes_;
    for (int type = static_cast<int>(gfp.highest); type >= 0; --type) {
      const size_t zone = node * kZoneTypes + static_cast<size_t>(type);
      if (zones_[zone].managed() > 0) list.push_back(zone);
    }
  }
  return list;
}

bool AllocatorModel::MayTake(const ZoneModel& zone, int order, const Gfp& gfp,
                             Keep keep, size_t first_type) const {
  if (keep == Keep::kNothing) return true;
  uint64_t mark = zone.marks.low.value();
  if (keep == Keep::kMin) {
    mark = zone.marks.min.value();
    // __GFP_HIGH takes a half of it off, __GFP_ATOMIC a quarter of the rest.
    const bool atomic = gfp.reserves == Reserves::kAtomic;
    if (atomic || gfp.reserves == Reserves::kHigh) mark -= mark / 2;
    if (atomic) mark -= mark / 4;
  }
  return zone.WatermarkOk(order, mark + zone.reserve[first_type].value());
}

bool AllocatorModel::IsCachedOrder(int order) const {
  if (options_.per_cpu_lists == Linux::k53) return order == 0;
  return order <= 3 || order == pageblock_order_;
}

size_t AllocatorModel::CpuListOf(int order, MigrateType type) const {
  // Those of a pageblock are together, whatever their type.
  return order > 3 ? 12
                   : static_cast<size_t>(order * 3 + static_cast<int>(type));
}

int AllocatorModel::OrderOf(size_t cpu_list) const {
  return cpu_list < 12 ? static_cast<int>(cpu_list / 3) : pageblock_order_;
}

std::optional<uint64_t> AllocatorModel::TakeFrom(int cpu, size_t zone,
                                                 int order, MigrateType type,
                                                 Mixing mixing) {
  ZoneModel& from = zones_[zone];
  if (!IsCachedOrder(order)) {
    return from.Allocate(order, type, mixing, PageState::kAllocated);
  }
  CpuListsModel& lists = CpuLists(cpu, zone);
  lists.free_factor /= 2;
  std::list<uint64_t>& list = lists.lists[CpuListOf(order, type)];
  if (list.empty()) {
    uint64_t wanted = options_.per_cpu_limits->batch;
    // In whole blocks, as large as they may be; two at least.
    if (order > 0 && wanted > 1) {
      wanted = std::max<uint64_t>(wanted / Pages(order), 2);
    }
    for (; wanted > 0; --wanted) {
      const auto pfn = from.Allocate(order, type, mixing, PageState::kCached);
      if (!pfn) break;
      list.push_back(*pfn);
    }
    if (list.empty()) return std::nullopt;
  }
  const uint64_t pfn = list.front();
  list.pop_front();
  from.blocks().at(pfn) = {PageState::kAllocated, order, type};
  return pfn;
}

std::optional<uint64_t> AllocatorModel::TryZones(int cpu, int order,
                                                 const Gfp& gfp, Keep keep,
                                                 Mixing mixing) {
  const std::vector<size_t> list = Zonelist(cpu, gfp);
  for (const size_t zone : list) {
    const bool remote = zone / kZoneTypes != list.front() / kZoneTypes;
    if (remote && mixing == Mixing::kAvoid) return std::nullopt;
    // What is kept back is for those who cannot use the first zone's type.
    const size_t first_type = list.front() % kZoneTypes;
    if (!MayTake(zones_[zone], order, gfp, keep, first_type)) continue;
    const auto pfn = TakeFrom(cpu, zone, order, gfp.type, mixing);
    if (!pfn) continue;
    vmstat_.pgalloc[zone % kZoneTypes] += Pages(order);
    // As zone_statistics: foreign and missed, or a hit; the vCPU's own or not.
    ++(remote ? vmstat_.numa_miss : vmstat_.numa_hit);
    if (remote) ++vmstat_.numa_foreign;
    ++(zone / kZoneTypes == NodeOf(cpu) ? vmstat_.numa_local
                                        : vmstat_.numa_other);
    return pfn;
  }
  return std::nullopt;
}

std::optional<uint64_t> AllocatorModel::Allocate(int cpu, int order,
                                                 const Gfp& gfp) {
  const std::vector<size_t> list = Zonelist(cpu, gfp);
  if (list.empty()) {
    ++vmstat_.alloc_failed;
    return std::nullopt;
  }
  // Rather DMA32 than a mix of types in Normal; but where there are more nodes
  // than one, that is for those that have both.
  const size_t first = list.front();
  const bool avoid = first % kZoneTypes == 2 &&
                     (nodes_ == 1 || zones_[first - 1].managed() > 0);
  std::optional<uint64_t> pfn;
  if (avoid) pfn = TryZones(cpu, order, gfp, Keep::kLow, Mixing::kAvoid);
  if (!pfn) pfn = TryZones(cpu, order, gfp, Keep::kLow, Mixing::kAllow);
  if (!pfn) pfn = TryZones(cpu, order, gfp, Keep::kMin, Mixing::kAllow);
  if (!pfn && gfp.reserves == Reserves::kAll) {
    pfn = TryZones(cpu, order, gfp, Keep::kNothing, Mixing::kAllow);
  }
  if (!pfn && gfp.may_reclaim) {
    ++vmstat_.allocstall[first % kZoneTypes];
    Drain();
    pfn = TryZones(cpu, order, gfp, Keep::kMin, Mixing::kAllow);
  }
  // What is cached anywhere is not to be missed.
  if (!pfn && !gfp.may_reclaim) {
    Drain();
    pfn = TryZones(cpu, order, gfp, Keep::kMin, Mixing::kAllow);
  }
  if (!pfn && gfp.reserves == Reserves::kAll) {
    Drain();
    pfn = TryZones(cpu, order, gfp, Keep::kNothing, Mixing::kAllow);
  }
  if (pfn) return pfn;
  ++vmstat_.alloc_failed;
  uint64_t isolated = 0;
  for (const size_t zone : list) {
    isolated += zones_[zone].PagesIn(PageState::kIsolated);
  }
  if (isolated > 0) ++vmstat_.alloc_failed_isolated;
  vmstat_.alloc_failed_isolated_pages += isolated;
  return std::nullopt;
}

bool AllocatorModel::Tell(const FreeBlock& block) {
  if (block.second < observed_from_) return false;
  told_.freed.push_back(block);
  return true;
}

bool AllocatorModel::FreeToZone(uint64_t pfn, MigrateType type) {
  return Tell(zones_[ZoneOf(pfn)].Free(pfn, type));
}

void AllocatorModel::Free(int cpu, uint64_t pfn) {
  const size_t zone = ZoneOf(pfn);
  ZoneModel::Block& block = BlockAt(pfn);
  if (block.pins > 0) {
    block.freed = true;
    return;
  }
  const int order = block.order;
  MigrateType type = zones_[zone].TypeAt(pfn);
  vmstat_.pgfree += Pages(order);
  bool told = false;
  if (!IsCachedOrder(order) || type == kIsolate) {
    told = FreeToZone(pfn, type);
  } else {
    block.state = PageState::kCached;
    CpuListsModel& lists = CpuLists(cpu, zone);
    const size_t list = CpuListOf(order, type);
    lists.lists[list].push_front(pfn);
    const uint64_t count = CachedPages(cpu, zone);
    const uint64_t high = options_.per_cpu_limits->high;
    const uint64_t batch = options_.per_cpu_limits->batch;
    if (options_.per_cpu_lists == Linux::k53) {
      if (count >= high) {
        told = GiveBack53(cpu, zone, std::min(count, batch));
      }
    } else if (lists.free_factor > 0 && order >= 1 && order <= 3) {
      // Blocks that are freed in a row are not for keeping.
      told = GiveBack61(cpu, zone, count, list);
    } else if (count >= high) {
      uint64_t pages = 1;
      if (high > batch) {
        // Twice as much each time, until something is allocated.
        const uint64_t most = high - batch;
        pages = batch << lists.free_factor;
        if (pages < most) ++lists.free_factor;
        pages = std::min(std::max(pages, batch), most);
      }
      told = GiveBack61(cpu, zone, pages, list);
    }
  }
  if (told) ++told_.wakes;
}

void AllocatorModel::Unpin(int cpu, uint64_t pfn) {
  ZoneModel::Block& block = BlockAt(pfn);
  if (--block.pins > 0 || !block.freed) return;
  block.freed = false;
  Free(cpu, pfn);
}

bool AllocatorModel::GiveBackOldest(int cpu, size_t zone, size_t list) {
  std::list<uint64_t>& pages = CpuLists(cpu, zone).lists[list];
  const uint64_t pfn = pages.back();
  pages.pop_back();
  MigrateType type = list == 12 ? zones_[zone].TypeAt(pfn)
                                : static_cast<MigrateType>(list % 3);
  // While anything goes offline, by what its pageblock is now.
  for (const auto& [number, now] : zones_[zone].pageblocks()) {
    if (now == kIsolate) type = zones_[zone].TypeAt(pfn);
  }
  return FreeToZone(pfn, type);
}

// Round the types' lists, from the one behind the first: of each list that has
// pages one more than of the one before for each empty list between them, and
// all from the only one that has any.
bool AllocatorModel::GiveBack53(int cpu, size_t zone, uint64_t pages) {
  const auto& lists = CpuLists(cpu, zone).lists;
  bool told = false;
  uint64_t turns = 0;
  size_t at = 0;
  while (pages > 0) {
    do {
      ++turns;
      at = (at + 1) % 3;
    } while (lists[at].empty());
    if (turns == 3) turns = pages;
    do {
      told |= GiveBackOldest(cpu, zone, at);
      --pages;
      --turns;
    } while (pages > 0 && turns > 0 && !lists[at].empty());
  }
  return told;
}

// From each list all there is, beginning with `first`.
bool AllocatorModel::GiveBack61(int cpu, size_t zone, uint64_t pages,
                                size_t first) {
  const auto& lists = CpuLists(cpu, zone).lists;
  bool told = false;
  auto left = static_cast<int64_t>(pages);
  for (size_t i = 0; i < lists.size(); ++i) {
    const size_t at = (first + i) % lists.size();
    while (left > 0 && !lists[at].empty()) {
      told |= GiveBackOldest(cpu, zone, at);
      left -= static_cast<int64_t>(Pages(OrderOf(at)));
    }
  }
  return told;
}

void AllocatorModel::Drain() {
  for (int cpu = 0; cpu < options_.cpus; ++cpu) {
    for (size_t zone = 0; zone < zones_.size(); ++zone) {
      const uint64_t pages = CachedPages(cpu, zone);
      const bool told = options_.per_cpu_lists == Linux::k53
                            ? GiveBack53(cpu, zone, pages)
                            : GiveBack61(cpu, zone, pages, 0);
      if (told) ++told_.wakes;
    }
  }
}

bool AllocatorModel::Isolate(uint64_t pfn) {
  return zones_[ZoneOf(pfn)].Isolate(pfn);
}

int AllocatorModel::Return(uint64_t pfn) {
  return zones_[ZoneOf(pfn)].Return(pfn).second;
}

ZoneModel* AllocatorModel::ZoneWithAll(PfnRange range) {
  for (ZoneModel& zone : zones_) {
    if (zone.HasAll(range)) return &zone;
  }
  return nullptr;
}

bool AllocatorModel::Offline(PfnRange range) {
  ZoneModel* const zone = ZoneWithAll(range);
  if (zone == nullptr) return false;
  const std::vector<MigrateType> types = zone->IsolatePageblocks(range);
  Drain();
  for (const auto& [pfn, block] : zone->blocks()) {
    if (range.Contains(Pfn(pfn)) && block.state != PageState::kFree) {
      zone->RestorePageblocks(range, types);
      return false;
    }
  }
  zone->RemoveMemory(range);
  told_.memory.push_back(
      ToldOfMemory(false, static_cast<size_t>(zone - zones_.data()), range));
  ZonesResized();
  return true;
}

void AllocatorModel::Online(size_t zone, PfnRange range) {
  told_.memory.push_back(ToldOfMemory(true, zone, range));
  bool told = false;
  for (const FreeBlock& block : zones_[zone].AddMemory(range)) {
    told |= Tell(block);
  }
  ZonesResized();
  if (told) ++told_.wakes;
}

uint64_t AllocatorModel::CachedPages(int cpu, size_t zone) const {
  const CpuListsModel& lists = CpuLists(cpu, zone);
  uint64_t pages = 0;
  for (size_t i = 0; i < lists.lists.size(); ++i) {
    pages += lists.lists[i].size() * Pages(OrderOf(i));
  }
  return pages;
}

uint64_t AllocatorModel::cached() const {
  uint64_t pages = 0;
  for (int cpu = 0; cpu < options_.cpus; ++cpu) {
    for (size_t zone = 0; zone < zones_.size(); ++zone) {
      pages += CachedPages(cpu, zone);
    }
  }
  return pages;
}

std::string AllocatorModel::State() const {
  std::string state;
  const auto add_list = [&](const std::list<uint64_t>& list) {
    for (const uint64_t pfn : list) absl::StrAppend(&state, pfn, ",");
    absl::StrAppend(&state, ";");
  };
  for (const ZoneModel& zone : zones_) {
    for (const auto& [pfn, block] : zone.blocks()) {
      const bool allocated = block.state == PageState::kAllocated;
      absl::StrAppend(&state, pfn, Name(block.state).data(), block.order,
                      allocated ? Name(block.as).data() : "", block.pins,
                      block.freed ? "freed " : " ");
    }
    for (const auto& [number, type] : zone.pageblocks()) {
      absl::StrAppend(&state, number, Name(type).data());
    }
    for (int type = 0; type < kMigrateTypes; ++type) {
      for (const auto& list : zone.lists(static_cast<MigrateType>(type))) {
        add_list(list);
      }
    }
  }
  for (const CpuListsModel& lists : cpu_lists_) {
    for (const std::list<uint64_t>& list : lists.lists) add_list(list);
    absl::StrAppend(&state, lists.free_factor, "|");
  }
  return state;
}

}  // namespace guestmm::buddy
