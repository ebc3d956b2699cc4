#include "src/sim/followed_per_cpu.h"

#include <algorithm>

namespace guestmm {

size_t FollowedPerCpu::IndexOf(Order order, MigrateType type) {
  return std::min<size_t>(
      order.bits() * kRequestTypes + static_cast<size_t>(type), kPageblockList);
}

Order FollowedPerCpu::OrderOf(size_t list) {
  const int row = static_cast<int>(list) / kRequestTypes;
  return row < kSmallOrders ? Order(row) : kPageblockOrder;
}

void FollowedPerCpu::Free(Pfn pfn, Order order, MigrateType type,
                          Blocks& back) {
  const size_t index = IndexOf(order, type);
  lists_[index].pfns.push_front(pfn);
  count_ += order.pages().value();
  // free_unref_page_commit: as PerCpuPages.
  if (order > Order(0) && order.value() < kSmallOrders && free_factor_ > 0) {
    GiveBack(count_, index, back);
    return;
  }
  if (count_ < limits_.high) return;
  GiveBack(PagesToGiveBack61(limits_, free_factor_), index, back);
}

bool FollowedPerCpu::Erase(size_t index, Pfn pfn) {
  std::deque<Pfn>& pfns = lists_[index].pfns;
  const auto found = std::find(pfns.begin(), pfns.end(), pfn);
  if (found == pfns.end()) return false;
  pfns.erase(found);
  count_ -= OrderOf(index).pages().value();
  return true;
}

bool FollowedPerCpu::Take(Pfn pfn, Order order, MigrateType type) {
  free_factor_ >>= 1;
  return Erase(IndexOf(order, type), pfn);
}

bool FollowedPerCpu::Remove(Pfn pfn, Order order) {
  for (int type = 0; type < kRequestTypes; ++type) {
    if (Erase(IndexOf(order, static_cast<MigrateType>(type)), pfn)) return true;
  }
  return false;
}

void FollowedPerCpu::GoneBefore(Pfn pfn, Order order, Blocks& back) {
  for (int type = 0; type < kRequestTypes; ++type) {
    const size_t index = IndexOf(order, static_cast<MigrateType>(type));
    std::deque<Pfn>& pfns = lists_[index].pfns;
    if (std::find(pfns.begin(), pfns.end(), pfn) == pfns.end()) continue;
    while (true) {
      const Pfn oldest = pfns.back();
      pfns.pop_back();
      count_ -= order.pages().value();
      if (oldest == pfn) return;
      back.push_back({oldest, order});
    }
  }
}

void FollowedPerCpu::TakeUnlisted(Order order, MigrateType type, Blocks& back) {
  const size_t index = IndexOf(order, type);
  List& list = lists_[index];
  const uint64_t each = order.pages().value();
  // Its place is one of those that were not known.
  if (list.unknown > 0) {
    --list.unknown;
    count_ -= each;
    return;
  }
  for (; !list.pfns.empty(); list.pfns.pop_back()) {
    back.push_back({list.pfns.back(), OrderOf(index)});
    count_ -= each;
  }
  uint64_t batch = limits_.batch;
  if (batch > 1) batch = std::max<uint64_t>(batch >> order.value(), 2);
  list.unknown = batch - 1;
  count_ += list.unknown * each;
}

void FollowedPerCpu::AddUnknown(uint64_t pages) {
  unknown_at_first_ += pages;
  count_ += pages;
}

void FollowedPerCpu::TakeUnknown(Order order) {
  const uint64_t pages = std::min(order.pages().value(), unknown_at_first_);
  unknown_at_first_ -= pages;
  count_ -= pages;
}

// free_pcppages_bulk: each list down to nothing, from the one that was freed
// to, oldest first.
void FollowedPerCpu::GiveBack(uint64_t pages, size_t first_list, Blocks& back) {
  uint64_t left = pages;
  const uint64_t unknown = std::min(left, unknown_at_first_);
  unknown_at_first_ -= unknown;
  count_ -= unknown;
  left -= unknown;
  for (size_t i = 0; i < kLists && left > 0; ++i) {
    const size_t index = (first_list + i) % kLists;
    List& list = lists_[index];
    const uint64_t each = OrderOf(index).pages().value();
    while (left > 0 && (list.unknown > 0 || !list.pfns.empty())) {
      if (list.unknown > 0) {
        --list.unknown;
      } else {
        back.push_back({list.pfns.back(), OrderOf(index)});
        list.pfns.pop_back();
      }
      count_ -= each;
      left -= std::min(left, each);
    }
  }
}

}  // namespace guestmm
