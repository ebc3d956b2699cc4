#include "src/experiment/replay/pcp_reconstruction.h"

#include <algorithm>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

Order OrderOf(size_t list) {
  return PerCpuLists::OrderOf(list, kPageblockOrder);
}

}  // namespace

PcpReconstruction::PcpReconstruction(PerCpuLimits limits) : limits_(limits) {
  GUESTMM_CHECK(limits.batch > 0);
}

void PcpReconstruction::Free(Pfn pfn, Order order, MigrateType type,
                             Blocks& back) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  lists_[index].pfns.push_front(pfn);
  count_ += order.pages().value();
  GiveBack(PagesToGiveBack61(limits_, order, count_, free_factor_), index,
           back);
}

bool PcpReconstruction::Erase(size_t index, Pfn pfn) {
  List& list = lists_[index];
  const auto found = std::find(list.pfns.begin(), list.pfns.end(), pfn);
  if (found == list.pfns.end()) return false;
  if (list.IsAssumed(found)) --list.supposed;
  list.pfns.erase(found);
  count_ -= OrderOf(index).pages().value();
  return true;
}

bool PcpReconstruction::Take(Pfn pfn, Order order, MigrateType type) {
  free_factor_ >>= 1;
  return Erase(PerCpuLists::IndexOf(order, type), pfn);
}

bool PcpReconstruction::Remove(Pfn pfn, Order order) {
  for (int type = 0; type < kRequestTypes; ++type) {
    const auto its = static_cast<MigrateType>(type);
    if (Erase(PerCpuLists::IndexOf(order, its), pfn)) return true;
  }
  return false;
}

void PcpReconstruction::EvictThrough(Pfn pfn, Order order, Blocks& back) {
  for (int type = 0; type < kRequestTypes; ++type) {
    const size_t index =
        PerCpuLists::IndexOf(order, static_cast<MigrateType>(type));
    List& list = lists_[index];
    const auto found = std::find(list.pfns.begin(), list.pfns.end(), pfn);
    if (found == list.pfns.end()) continue;
    if (!list.IsAssumed(found)) {
      while (list.pfns.back() != pfn) GiveBackOldest(index, back);
      GiveBackOldest(index, back);
      return;
    }
    Erase(index, pfn);
    back.push_back({.pfn = pfn, .order = order, .never_left = true});
    ++list.unknown;
    count_ += order.pages().value();
    return;
  }
}

uint64_t PcpReconstruction::TakeUnlisted(Order order, MigrateType type,
                                         Blocks& back) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  List& list = lists_[index];
  const uint64_t each = order.pages().value();
  // Those would have been handed out first: they were others.
  while (list.supposed > 0) {
    GiveBackOldest(index, back);
    back.back().never_left = true;
    ++list.unknown;
    count_ += each;
  }
  // Its place is one of those that were not known.
  if (list.unknown > 0) {
    --list.unknown;
    count_ -= each;
    return 0;
  }
  while (!list.pfns.empty()) GiveBackOldest(index, back);
  uint64_t batch = limits_.batch;
  if (batch > 1) batch = std::max<uint64_t>(batch >> order.value(), 2);
  list.unknown = batch - 1;
  count_ += list.unknown * each;
  return list.unknown;
}

void PcpReconstruction::AssumeCached(Pfn pfn, Order order, MigrateType type) {
  List& list = lists_[PerCpuLists::IndexOf(order, type)];
  GUESTMM_CHECK(list.unknown > 0);
  --list.unknown;
  ++list.supposed;
  list.pfns.push_back(pfn);
}

void PcpReconstruction::AddUnknown(uint64_t pages) {
  unknown_at_first_ += pages;
  count_ += pages;
}

void PcpReconstruction::TakeUnknown(Order order) {
  const uint64_t pages = std::min(order.pages().value(), unknown_at_first_);
  unknown_at_first_ -= pages;
  count_ -= pages;
}

void PcpReconstruction::GiveBackOldest(size_t index, Blocks& back) {
  List& list = lists_[index];
  const Order order = OrderOf(index);
  back.push_back({list.pfns.back(), order});
  list.pfns.pop_back();
  if (list.supposed > 0) --list.supposed;
  count_ -= order.pages().value();
}

// free_pcppages_bulk: each list down to nothing, from the one that was freed
// to, oldest first.
void PcpReconstruction::GiveBack(uint64_t pages, size_t first_list,
                                 Blocks& back) {
  uint64_t left = pages;
  const uint64_t unknown = std::min(left, unknown_at_first_);
  unknown_at_first_ -= unknown;
  count_ -= unknown;
  left -= unknown;
  for (size_t i = 0; i < lists_.size() && left > 0; ++i) {
    const size_t index = (first_list + i) % lists_.size();
    List& list = lists_[index];
    const uint64_t each = OrderOf(index).pages().value();
    while (left > 0 && (list.unknown > 0 || !list.pfns.empty())) {
      if (list.unknown > 0) {
        --list.unknown;
        count_ -= each;
      } else {
        GiveBackOldest(index, back);
      }
      left -= std::min(left, each);
    }
  }
}

}  // namespace guestmm
