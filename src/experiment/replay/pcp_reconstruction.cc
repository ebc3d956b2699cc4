#include "src/experiment/replay/pcp_reconstruction.h"

#include <algorithm>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

Order OrderOf(size_t list) {
  return PerCpuLists::OrderOf(list, kPageblockOrder);
}

}  // namespace

PcpReconstruction::PcpReconstruction(KernelVersion version, PerCpuLimits limits)
    : marks_(version, limits) {}

void PcpReconstruction::Seed(uint64_t pages) {
  seeded_pages_ += pages;
  pages_ += pages;
}

void PcpReconstruction::Identify(Pfn pfn, Order order, MigrateType type) {
  const uint64_t pages = order.pages().value();
  lists_[PerCpuLists::IndexOf(order, type)].pfns.push_back(pfn);
  const uint64_t seeded = std::min(pages, seeded_pages_);
  seeded_pages_ -= seeded;
  pages_ += pages - seeded;
}

void PcpReconstruction::Free(Pfn pfn, Order order, MigrateType type,
                             ZonePressure pressure, Blocks& drained) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  lists_[index].pfns.push_front(pfn);
  pages_ += order.pages().value();
  Drain(marks_.PagesToReturn(order, pages_, pressure), index, drained);
}

void PcpReconstruction::Decay(Blocks& drained) {
  // As PerCpuPages::Decay.
  uint64_t left = marks_.Decay(pages_);
  while (left > 0 && pages_ > 0) {
    const uint64_t batch = std::min<uint64_t>(left, marks_.limits().batch);
    Drain(batch, 0, drained);
    left -= batch;
  }
}

bool PcpReconstruction::TakeListed(Pfn pfn, Order order, MigrateType type) {
  marks_.OnAllocate();
  return Erase(PerCpuLists::IndexOf(order, type), pfn);
}

uint64_t PcpReconstruction::Refill(Order order, MigrateType type,
                                   ZonePressure pressure, Blocks& drained) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  List& list = lists_[index];
  const uint64_t each = order.pages().value();
  while (list.assumed > 0) {
    DrainOldest(index, drained);
    drained.back().never_left_zone = true;
    ++list.placeholders;
    pages_ += each;
  }
  if (list.placeholders > 0) {
    --list.placeholders;
    pages_ -= each;
    return 0;
  }
  while (!list.pfns.empty()) DrainOldest(index, drained);
  list.placeholders = marks_.BlocksToRefill(order, pages_, pressure) - 1;
  pages_ += list.placeholders * each;
  return list.placeholders;
}

void PcpReconstruction::Assume(Pfn pfn, Order order, MigrateType type) {
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  GUESTMM_CHECK(list.placeholders > 0);
  --list.placeholders;
  ++list.assumed;
  list.pfns.push_back(pfn);
}

void PcpReconstruction::TakeSeeded(Order order) {
  const uint64_t pages = std::min(order.pages().value(), seeded_pages_);
  seeded_pages_ -= pages;
  pages_ -= pages;
}

bool PcpReconstruction::Remove(Pfn pfn, Order order) {
  for (int type = 0; type < kRequestTypes; ++type) {
    const auto its = static_cast<MigrateType>(type);
    if (Erase(PerCpuLists::IndexOf(order, its), pfn)) return true;
  }
  return false;
}

void PcpReconstruction::DrainThrough(Pfn pfn, Order order, Blocks& drained) {
  for (int type = 0; type < kRequestTypes; ++type) {
    const size_t index =
        PerCpuLists::IndexOf(order, static_cast<MigrateType>(type));
    List& list = lists_[index];
    const auto found = std::find(list.pfns.begin(), list.pfns.end(), pfn);
    if (found == list.pfns.end()) continue;
    if (!list.IsAssumed(found)) {
      while (list.pfns.back() != pfn) DrainOldest(index, drained);
      DrainOldest(index, drained);
      return;
    }
    Erase(index, pfn);
    drained.push_back({.pfn = pfn, .order = order, .never_left_zone = true});
    ++list.placeholders;
    pages_ += order.pages().value();
    return;
  }
}

bool PcpReconstruction::Erase(size_t index, Pfn pfn) {
  List& list = lists_[index];
  const auto found = std::find(list.pfns.begin(), list.pfns.end(), pfn);
  if (found == list.pfns.end()) return false;
  if (list.IsAssumed(found)) --list.assumed;
  list.pfns.erase(found);
  pages_ -= OrderOf(index).pages().value();
  return true;
}

void PcpReconstruction::DrainOldest(size_t index, Blocks& drained) {
  List& list = lists_[index];
  const Order order = OrderOf(index);
  drained.push_back({list.pfns.back(), order});
  list.pfns.pop_back();
  if (list.assumed > 0) --list.assumed;
  pages_ -= order.pages().value();
}

void PcpReconstruction::Drain(uint64_t pages, size_t first_list,
                              Blocks& drained) {
  uint64_t left = pages;
  const uint64_t seeded = std::min(left, seeded_pages_);
  seeded_pages_ -= seeded;
  pages_ -= seeded;
  left -= seeded;
  for (size_t i = 0; i < lists_.size() && left > 0; ++i) {
    const size_t index = (first_list + i) % lists_.size();
    List& list = lists_[index];
    const uint64_t each = OrderOf(index).pages().value();
    while (left > 0 && (list.placeholders > 0 || !list.pfns.empty())) {
      if (list.placeholders > 0) {
        --list.placeholders;
        pages_ -= each;
      } else {
        DrainOldest(index, drained);
      }
      left -= std::min(left, each);
    }
  }
}

}  // namespace guestmm
