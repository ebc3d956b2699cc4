#include "tests/testing/allocator_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace guestmm::buddy {
namespace {

constexpr uint64_t kDmaEnd = 16 * kMiB / kPageSize;
constexpr uint64_t kDma32End = 4 * kGiB / kPageSize;

constexpr MigrateType kIsolate = MigrateType::kIsolate;

uint64_t Pages(int order) { return uint64_t{1} << order; }

}  // namespace

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
  // The start of ZONE_MOVABLE is computed by LayOutZones, which has tests of
  // its own.
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
  for (CpuListsModel& lists : cpu_lists_) {
    lists.high = options.per_cpu_limits->high;
  }
  ZonesResized();
  // Notifies the observer of all memory present, with adjacent ranges merged.
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
      notifications_.memory.push_back(MemoryEvent(true, zone, range));
    }
  }
}

std::string AllocatorModel::MemoryEvent(bool online, size_t zone,
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

// The first cpus are on node 0.
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
    // __GFP_HIGH subtracts a half, __GFP_ATOMIC a quarter of the rest.
    const bool atomic = gfp.reserves == Reserves::kAtomic;
    if (atomic || gfp.reserves == Reserves::kHigh) mark -= mark / 2;
    if (atomic) mark -= mark / 4;
  }
  return zone.WatermarkOk(order, mark + zone.reserve[first_type].value());
}

std::vector<uint64_t> AllocatorModel::Take(size_t zone, uint64_t count,
                                           int order, MigrateType type,
                                           Mixing mixing, PageState state) {
  ZoneModel& from = zones_[zone];
  std::vector<uint64_t> blocks;
  while (blocks.size() < count) {
    const auto pfn = from.Allocate(order, type, mixing, state);
    if (!pfn) break;
    blocks.push_back(*pfn);
  }
  if (!blocks.empty()) {
    notifications_.taken.push_back({zone, blocks, order, from.free()});
  }
  return blocks;
}

std::optional<uint64_t> AllocatorModel::TakeFrom(int cpu, size_t zone,
                                                 int order, MigrateType type,
                                                 Mixing mixing) {
  if (!IsCachedOrder(order)) {
    const std::vector<uint64_t> taken =
        Take(zone, 1, order, type, mixing, PageState::kAllocated);
    if (taken.empty()) return std::nullopt;
    return taken.front();
  }
  CpuListsModel& lists = CpuLists(cpu, zone);
  lists.free_factor /= 2;
  lists.free_count /= 2;
  std::list<uint64_t>& list = lists.lists[CpuListOf(order, type)];
  if (list.empty()) {
    const std::vector<uint64_t> taken =
        Take(zone, RefillOf(cpu, zone, order), order, type, mixing,
             PageState::kCached);
    list.assign(taken.begin(), taken.end());
    if (list.empty()) return std::nullopt;
  }
  const uint64_t pfn = list.front();
  list.pop_front();
  BlockAt(pfn) = {PageState::kAllocated, order, type};
  return pfn;
}

void AllocatorModel::CheckHigh(ZoneModel& zone, int order,
                               size_t first_type) const {
  if (options_.per_cpu_lists != KernelVersion::kV6_12) return;
  const PageCount mark = zone.marks.high + zone.reserve[first_type];
  if (!zone.WatermarkOk(order, mark.value())) zone.below_high = true;
}

std::optional<uint64_t> AllocatorModel::TryZones(int cpu, int order,
                                                 const Gfp& gfp, Keep keep,
                                                 Mixing mixing) {
  const std::vector<size_t> list = Zonelist(cpu, gfp);
  for (const size_t zone : list) {
    const bool remote = zone / kZoneTypes != list.front() / kZoneTypes;
    if (remote && mixing == Mixing::kAvoid) return std::nullopt;
    // The reserve depends on the type of the preferred zone (ac_classzone_idx).
    const size_t first_type = list.front() % kZoneTypes;
    CheckHigh(zones_[zone], order, first_type);
    if (!MayTake(zones_[zone], order, gfp, keep, first_type)) continue;
    const auto pfn = TakeFrom(cpu, zone, order, gfp.type, mixing);
    if (!pfn) continue;
    vmstat_.pgalloc[zone % kZoneTypes] += Pages(order);
    // As zone_statistics: foreign and miss, or hit; local or other.
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
  // Prefers DMA32 to mixing types in Normal; with several nodes only on a node
  // that has both.
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
  // Drains all lists before it fails.
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

bool AllocatorModel::Notify(const FreeBlock& block) {
  if (block.second < observed_from_) return false;
  notifications_.freed.push_back(block);
  return true;
}

bool AllocatorModel::FreeToZone(uint64_t pfn, MigrateType type) {
  return Notify(zones_[ZoneOf(pfn)].Free(pfn, type));
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
  bool wake = false;
  if (!IsCachedOrder(order) || type == kIsolate) {
    wake = FreeToZone(pfn, type);
  } else {
    block.state = PageState::kCached;
    CpuListsModel& lists = CpuLists(cpu, zone);
    const size_t list = CpuListOf(order, type);
    lists.lists[list].push_front(pfn);
    wake = AfterFree(cpu, zone, order, list);
  }
  if (wake) ++notifications_.wakes;
}

void AllocatorModel::Unpin(int cpu, uint64_t pfn) {
  ZoneModel::Block& block = BlockAt(pfn);
  if (--block.pins > 0 || !block.freed) return;
  block.freed = false;
  Free(cpu, pfn);
}

bool AllocatorModel::Isolate(uint64_t pfn) {
  return zones_[ZoneOf(pfn)].Isolate(pfn);
}

int AllocatorModel::Return(uint64_t pfn, ReturnTo to) {
  return zones_[ZoneOf(pfn)].Return(pfn, to).second;
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
  notifications_.memory.push_back(
      MemoryEvent(false, static_cast<size_t>(zone - zones_.data()), range));
  ZonesResized();
  return true;
}

void AllocatorModel::Online(size_t zone, PfnRange range) {
  notifications_.memory.push_back(MemoryEvent(true, zone, range));
  bool wake = false;
  for (const FreeBlock& block : zones_[zone].AddMemory(range)) {
    wake |= Notify(block);
  }
  ZonesResized();
  if (wake) ++notifications_.wakes;
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
                      block.freed ? "freed " : " ",
                      block.reported ? "reported " : "");
    }
    if (zone.below_high) absl::StrAppend(&state, "below high ");
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
    absl::StrAppend(&state, lists.free_factor, " ", lists.high, " ",
                    lists.free_count, " ", lists.alloc_factor, " ",
                    lists.previous_free_high_order, "|");
  }
  return state;
}

}  // namespace guestmm::buddy
