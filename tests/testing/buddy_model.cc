#include "tests/testing/buddy_model.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace guestmm::buddy {
namespace {

constexpr uint64_t kDmaEnd = 16 * kMiB / kPageSize;
constexpr uint64_t kDma32End = 4 * kGiB / kPageSize;

}  // namespace

void ZoneModel::AddMemory(PfnRange range) {
  uint64_t pfn = range.start.value();
  while (pfn < range.end.value()) {
    int order = max_order_;
    while (pfn % (uint64_t{1} << order) != 0 ||
           pfn + (uint64_t{1} << order) > range.end.value()) {
      --order;
    }
    blocks_[pfn] = {PageState::kOffline, order};
    Free(pfn);
    pfn += uint64_t{1} << order;
  }
}

bool ZoneModel::WatermarkOk(int order, uint64_t mark) const {
  const uint64_t pages = uint64_t{1} << order;
  if (PagesIn(PageState::kFree) < pages) return false;
  if (PagesIn(PageState::kFree) - (pages - 1) <= mark) return false;
  for (int at = order; at <= max_order_; ++at) {
    if (!lists_[static_cast<size_t>(at)].empty()) return true;
  }
  return false;
}

std::optional<uint64_t> ZoneModel::Allocate(int order, PageState state) {
  for (int at = order; at <= max_order_; ++at) {
    std::list<uint64_t>& list = lists_[static_cast<size_t>(at)];
    if (list.empty()) continue;
    const uint64_t pfn = list.front();
    list.pop_front();
    while (at > order) {
      --at;
      const uint64_t upper = pfn + (uint64_t{1} << at);
      blocks_[upper] = {PageState::kFree, at};
      lists_[static_cast<size_t>(at)].push_front(upper);
    }
    blocks_[pfn] = {state, order};
    return pfn;
  }
  return std::nullopt;
}

bool ZoneModel::IsFree(uint64_t pfn, int order) const {
  const auto at = blocks_.find(pfn);
  return at != blocks_.end() && at->second == Block{PageState::kFree, order};
}

std::pair<uint64_t, int> ZoneModel::Free(uint64_t pfn) {
  int order = blocks_.at(pfn).order;
  blocks_.erase(pfn);
  while (order < max_order_) {
    const uint64_t buddy = pfn ^ (uint64_t{1} << order);
    if (!IsFree(buddy, order)) break;
    blocks_.erase(buddy);
    lists_[static_cast<size_t>(order)].remove(buddy);
    pfn = std::min(pfn, buddy);
    ++order;
  }
  blocks_[pfn] = {PageState::kFree, order};

  // To the tail if the block of the next order, which this is a half of, has
  // its buddy free; but never at the two largest orders.
  std::list<uint64_t>& list = lists_[static_cast<size_t>(order)];
  const uint64_t twice = uint64_t{2} << order;
  const uint64_t above = pfn / twice * twice;
  if (order + 1 < max_order_ && IsFree(above ^ twice, order + 1)) {
    list.push_back(pfn);
  } else {
    list.push_front(pfn);
  }
  return {pfn, order};
}

bool ZoneModel::Isolate(uint64_t pfn) {
  Block& block = blocks_.at(pfn);
  const uint64_t pages = uint64_t{1} << block.order;
  if (PagesIn(PageState::kFree) - pages <= min_) return false;
  lists_[static_cast<size_t>(block.order)].remove(pfn);
  block.state = PageState::kIsolated;
  return true;
}

AllocatorModel::AllocatorModel(const PageAllocatorOptions& options,
                               Order observed_from,
                               const std::vector<Watermarks>& watermarks)
    : limits_(*options.per_cpu_limits), observed_from_(observed_from.value()) {
  std::vector<std::vector<PfnRange>> present(kZoneTypes);
  for (const MemoryRange& range : options.memory) {
    for (uint64_t pfn = range.start.value(); pfn < range.end.value(); ++pfn) {
      const auto type = static_cast<size_t>(pfn < kDmaEnd     ? 0
                                            : pfn < kDma32End ? 1
                                                              : 2);
      std::vector<PfnRange>& ranges = present[type];
      if (!ranges.empty() && ranges.back().end == Pfn(pfn) &&
          pfn != range.start.value()) {
        ranges.back().end += PageCount(1);
      } else {
        ranges.push_back({Pfn(pfn), Pfn(pfn + 1)});
      }
    }
  }
  for (const std::vector<PfnRange>& ranges : present) {
    const Watermarks& marks = watermarks[zones_.size()];
    zones_.emplace_back(
        ranges.empty() ? PfnRange{}
                       : PfnRange{ranges.front().start, ranges.back().end},
        options.max_order.value(), marks.min.value(), marks.low.value());
    for (const PfnRange& range : ranges) zones_.back().AddMemory(range);
  }
  cpu_lists_.resize(static_cast<size_t>(options.cpus) * zones_.size());
}

size_t AllocatorModel::ZoneOf(uint64_t pfn) const {
  size_t zone = 0;
  while (!zones_[zone].span().Contains(Pfn(pfn))) ++zone;
  return zone;
}

std::optional<uint64_t> AllocatorModel::Allocate(int cpu, int order) {
  std::optional<uint64_t> pfn = AllocateAbove(/*low=*/true, cpu, order);
  if (!pfn) pfn = AllocateAbove(/*low=*/false, cpu, order);
  if (!pfn) {
    Drain();
    pfn = AllocateAbove(/*low=*/false, cpu, order);
  }
  return pfn;
}

std::optional<uint64_t> AllocatorModel::AllocateAbove(bool low, int cpu,
                                                      int order) {
  for (size_t i = zones_.size(); i-- > 0;) {
    ZoneModel& zone = zones_[i];
    if (!zone.WatermarkOk(order, low ? zone.low() : zone.min())) continue;
    if (order > 0) return zone.Allocate(order, PageState::kAllocated);
    std::list<uint64_t>& list = CpuList(cpu, i);
    if (list.empty()) {
      while (list.size() < limits_.batch) {
        const auto page = zone.Allocate(0, PageState::kCached);
        if (!page) break;
        list.push_back(*page);
      }
    }
    const uint64_t pfn = list.front();
    list.pop_front();
    zone.blocks().at(pfn).state = PageState::kAllocated;
    return pfn;
  }
  return std::nullopt;
}

bool AllocatorModel::FreeToZone(uint64_t pfn) {
  const std::pair<uint64_t, int> merged = zones_[ZoneOf(pfn)].Free(pfn);
  if (merged.second < observed_from_) return false;
  told_.freed.push_back(merged);
  return true;
}

void AllocatorModel::Free(int cpu, uint64_t pfn) {
  const size_t zone = ZoneOf(pfn);
  ZoneModel::Block& block = zones_[zone].blocks().at(pfn);
  bool told = false;
  if (block.order > 0) {
    told = FreeToZone(pfn);
  } else {
    block.state = PageState::kCached;
    std::list<uint64_t>& list = CpuList(cpu, zone);
    list.push_front(pfn);
    if (list.size() >= limits_.high) {
      for (uint32_t i = 0; i < limits_.batch && !list.empty(); ++i) {
        told |= FreeToZone(list.back());
        list.pop_back();
      }
    }
  }
  if (told) ++told_.wakes;
}

void AllocatorModel::Drain() {
  for (std::list<uint64_t>& list : cpu_lists_) {
    bool told = false;
    for (; !list.empty(); list.pop_back()) told |= FreeToZone(list.back());
    if (told) ++told_.wakes;
  }
}

bool AllocatorModel::Isolate(uint64_t pfn) {
  return zones_[ZoneOf(pfn)].Isolate(pfn);
}

int AllocatorModel::Return(uint64_t pfn) {
  return zones_[ZoneOf(pfn)].Free(pfn).second;
}

uint64_t AllocatorModel::cached() const {
  uint64_t pages = 0;
  for (const std::list<uint64_t>& list : cpu_lists_) pages += list.size();
  return pages;
}

std::string AllocatorModel::State() const {
  std::string state;
  for (const ZoneModel& zone : zones_) {
    for (const auto& [pfn, block] : zone.blocks()) {
      absl::StrAppend(&state, pfn, Name(block.state).data(), block.order, " ");
    }
    for (const std::list<uint64_t>& list : zone.lists()) {
      for (const uint64_t pfn : list) absl::StrAppend(&state, pfn, ",");
      absl::StrAppend(&state, ";");
    }
  }
  for (const std::list<uint64_t>& list : cpu_lists_) {
    for (const uint64_t pfn : list) absl::StrAppend(&state, pfn, ",");
    absl::StrAppend(&state, "|");
  }
  return state;
}

}  // namespace guestmm::buddy
