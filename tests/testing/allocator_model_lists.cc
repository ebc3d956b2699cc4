// AllocatorModel's per-CPU lists: what moves between them and the zones.

#include <algorithm>

#include "tests/testing/allocator_model.h"

namespace guestmm::buddy {
namespace {

constexpr MigrateType kIsolate = MigrateType::kIsolate;

uint64_t Pages(int order) { return uint64_t{1} << order; }

}  // namespace

bool AllocatorModel::IsCachedOrder(int order) const {
  if (options_.per_cpu_lists == KernelVersion::kV5_3) return order == 0;
  return order <= 3 || order == pageblock_order_;
}

size_t AllocatorModel::CpuListOf(int order, MigrateType type) const {
  // Blocks of the pageblock order have two lists: movable, and all other types.
  if (order > 3) return type == MigrateType::kMovable ? 13 : 12;
  return static_cast<size_t>(order * 3 + static_cast<int>(type));
}

int AllocatorModel::OrderOf(size_t cpu_list) const {
  return cpu_list < 12 ? static_cast<int>(cpu_list / 3) : pageblock_order_;
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

uint64_t AllocatorModel::RefillOf(int cpu, size_t zone, int order) {
  const PerCpuLimits& limits = *options_.per_cpu_limits;
  CpuListsModel& lists = CpuLists(cpu, zone);
  const int64_t batch = limits.batch;
  int64_t pages = batch;
  if (options_.per_cpu_lists == KernelVersion::kV6_12) {
    if (lists.high < batch) return 1;
    if (order == 0) pages = batch << lists.alloc_factor;
    if (limits.high_max > limits.high && !zones_[zone].below_high) {
      lists.high = std::min<int64_t>(lists.high + pages, limits.high_max);
    }
    if (order == 0) {
      const auto count = static_cast<int64_t>(CachedPages(cpu, zone));
      const int64_t room = std::max(lists.high - count - batch, batch);
      if (pages <= room && lists.alloc_factor < 5) ++lists.alloc_factor;
      pages = std::min(pages, room);
    }
  }
  // In whole blocks, at least two.
  if (pages > 1) pages = std::max<int64_t>(pages >> order, order > 0 ? 2 : 1);
  return static_cast<uint64_t>(pages);
}

bool AllocatorModel::AfterFree(int cpu, size_t zone, int order, size_t list) {
  switch (options_.per_cpu_lists) {
    case KernelVersion::kV5_3: {
      const uint64_t count = CachedPages(cpu, zone);
      if (count < options_.per_cpu_limits->high) return false;
      return GiveBack53(
          cpu, zone, std::min<uint64_t>(count, options_.per_cpu_limits->batch));
    }
    case KernelVersion::kV6_1:
      return AfterFree61(cpu, zone, order, list);
    case KernelVersion::kV6_12:
      return AfterFree612(cpu, zone, order, list);
  }
  return false;
}

bool AllocatorModel::AfterFree61(int cpu, size_t zone, int order, size_t list) {
  CpuListsModel& lists = CpuLists(cpu, zone);
  const uint64_t count = CachedPages(cpu, zone);
  const uint64_t high = options_.per_cpu_limits->high;
  const uint64_t batch = options_.per_cpu_limits->batch;
  // While blocks are returned in a row, small ones are not kept.
  if (lists.free_factor > 0 && order >= 1 && order <= 3) {
    return GiveBack61(cpu, zone, count, list);
  }
  if (count < high) return false;
  uint64_t pages = 1;
  if (high > batch) {
    // Twice as many each time, until an allocation.
    const uint64_t most = high - batch;
    pages = batch << lists.free_factor;
    if (pages < most && lists.free_factor < 5) ++lists.free_factor;
    pages = std::min(std::max(pages, batch), most);
  }
  return GiveBack61(cpu, zone, pages, list);
}

// free_unref_page_commit, nr_pcp_high, nr_pcp_free.
bool AllocatorModel::AfterFree612(int cpu, size_t zone, int order,
                                  size_t list) {
  CpuListsModel& lists = CpuLists(cpu, zone);
  ZoneModel& its_zone = zones_[zone];
  const auto count = static_cast<int64_t>(CachedPages(cpu, zone));
  const int64_t batch = options_.per_cpu_limits->batch;
  const int64_t least = options_.per_cpu_limits->high;
  const int64_t most = options_.per_cpu_limits->high_max;
  const bool high_order = order >= 1 && order <= 3;
  const bool flush = high_order && lists.previous_free_high_order &&
                     lists.free_count >= batch && count >= batch;
  lists.alloc_factor /= 2;
  lists.previous_free_high_order = high_order;
  if (lists.free_count < 32 * batch) {
    lists.free_count += static_cast<int64_t>(Pages(order));
  }
  int64_t pages = 0;
  if (flush) {
    lists.high = std::max(lists.high - 32 * batch, least);
    pages = std::min(count, 32 * batch);
  } else {
    int64_t high = lists.high;
    if (most > least && its_zone.below_high) {
      lists.high =
          std::max(lists.high - std::max(lists.free_count, batch), least);
      high = std::max(count, least);
    } else if (most > least && count >= high) {
      lists.high =
          std::max(lists.high, std::min(lists.free_count + batch, most));
    }
    if (count < high) return false;
    pages = 1;
    if (high > batch) {
      pages = std::min(std::max(lists.free_count, batch), high - batch);
    }
  }
  const bool wake = GiveBack61(cpu, zone, static_cast<uint64_t>(pages), list);
  const PageCount mark = its_zone.marks.high + its_zone.reserve[kZoneTypes - 1];
  if (its_zone.WatermarkOk(0, mark.value())) its_zone.below_high = false;
  return wake;
}

// decay_pcp_high.
void AllocatorModel::Refresh(int cpu) {
  if (options_.per_cpu_lists != KernelVersion::kV6_12) return;
  for (size_t zone = 0; zone < zones_.size(); ++zone) {
    CpuListsModel& lists = CpuLists(cpu, zone);
    const int64_t batch = options_.per_cpu_limits->batch;
    const int64_t least = options_.per_cpu_limits->high;
    const auto count = static_cast<int64_t>(CachedPages(cpu, zone));
    if (lists.high > least) {
      lists.high =
          std::max({count - 32 * batch, lists.high - lists.high / 8, least});
    }
    bool wake = false;
    for (int64_t left = count - lists.high; left > 0; left -= batch) {
      wake |= GiveBack61(cpu, zone,
                         static_cast<uint64_t>(std::min(left, batch)), 0);
    }
    if (wake) ++notifications_.wakes;
  }
}

bool AllocatorModel::GiveBackOldest(int cpu, size_t zone, size_t list) {
  std::list<uint64_t>& pages = CpuLists(cpu, zone).lists[list];
  const uint64_t pfn = pages.back();
  pages.pop_back();
  MigrateType type = list >= 12 ? zones_[zone].TypeAt(pfn)
                                : static_cast<MigrateType>(list % 3);
  // While memory is being offlined, the pageblock's current type decides.
  for (const auto& [number, now] : zones_[zone].pageblocks()) {
    if (now == kIsolate) type = zones_[zone].TypeAt(pfn);
  }
  return FreeToZone(pfn, type);
}

// Round-robin over the lists of types, beginning after the first: each list
// that has pages returns one more for each empty list skipped; the only
// non-empty list returns all.
bool AllocatorModel::GiveBack53(int cpu, size_t zone, uint64_t pages) {
  const auto& lists = CpuLists(cpu, zone).lists;
  bool wake = false;
  uint64_t turns = 0;
  size_t at = 0;
  while (pages > 0) {
    do {
      ++turns;
      at = (at + 1) % 3;
    } while (lists[at].empty());
    if (turns == 3) turns = pages;
    do {
      wake |= GiveBackOldest(cpu, zone, at);
      --pages;
      --turns;
    } while (pages > 0 && turns > 0 && !lists[at].empty());
  }
  return wake;
}

// Returns all blocks of each list, beginning with `first`.
bool AllocatorModel::GiveBack61(int cpu, size_t zone, uint64_t pages,
                                size_t first) {
  const auto& lists = CpuLists(cpu, zone).lists;
  bool wake = false;
  auto left = static_cast<int64_t>(pages);
  for (size_t i = 0; i < lists.size(); ++i) {
    const size_t at = (first + i) % lists.size();
    while (left > 0 && !lists[at].empty()) {
      wake |= GiveBackOldest(cpu, zone, at);
      left -= static_cast<int64_t>(Pages(OrderOf(at)));
    }
  }
  return wake;
}

void AllocatorModel::Drain() {
  for (int cpu = 0; cpu < options_.cpus; ++cpu) {
    for (size_t zone = 0; zone < zones_.size(); ++zone) {
      const uint64_t pages = CachedPages(cpu, zone);
      const bool wake = options_.per_cpu_lists == KernelVersion::kV5_3
                            ? GiveBack53(cpu, zone, pages)
                            : GiveBack61(cpu, zone, pages, 0);
      if (wake) ++notifications_.wakes;
    }
  }
}

}  // namespace guestmm::buddy
