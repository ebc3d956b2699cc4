#include "src/experiment/replay/pcp_reconstruction.h"

#include <algorithm>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

Order OrderOf(size_t list) {
  return PerCpuLists::OrderOf(list, kPageblockOrder);
}

}  // namespace

PcpReconstruction::PcpReconstruction(KernelVersion version, PerCpuLimits limits,
                                     ListedBlocks& blocks)
    : marks_(version, limits), blocks_(blocks), first_list_(blocks.MakeList()) {
  for (size_t i = 1; i < PerCpuLists::kCount; ++i) blocks.MakeList();
}

void PcpReconstruction::Seed(uint64_t pages) {
  seeded_pages_ += pages;
  pages_ += pages;
}

void PcpReconstruction::Identify(Pfn pfn, Order order, MigrateType type) {
  const uint64_t pages = order.pages().value();
  blocks_.AddOldest(ListOf(PerCpuLists::IndexOf(order, type)), pfn, order);
  const uint64_t seeded = std::min(pages, seeded_pages_);
  seeded_pages_ -= seeded;
  pages_ += pages - seeded;
}

void PcpReconstruction::Free(Pfn pfn, Order order, MigrateType type,
                             ZonePressure pressure, Blocks& drained) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  blocks_.AddNewest(ListOf(index), pfn, order);
  pages_ += order.pages().value();
  const uint64_t back = marks_.PagesToReturn(order, pages_, pressure);
  if (back > 0) Drain(back, index, drained);
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
  const size_t index = PerCpuLists::IndexOf(order, type);
  const ListedBlocks::Index block = blocks_.Find(pfn);
  if (block == ListedBlocks::kNone || blocks_[block].list != ListOf(index)) {
    return false;
  }
  Take(index, block);
  return true;
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
  while (DrainOldest(index, drained)) {
  }
  list.placeholders = marks_.BlocksToRefill(order, pages_, pressure) - 1;
  pages_ += list.placeholders * each;
  return list.placeholders;
}

void PcpReconstruction::Assume(Pfn pfn, Order order, MigrateType type,
                               std::optional<Order> reported) {
  const size_t index = PerCpuLists::IndexOf(order, type);
  List& list = lists_[index];
  GUESTMM_CHECK(list.placeholders > 0);
  --list.placeholders;
  ++list.assumed;
  blocks_.AddOldest(ListOf(index), pfn, order);
  ListedBlocks::Block& block = blocks_[blocks_.Find(pfn)];
  block.assumed = true;
  block.reported = reported;
}

void PcpReconstruction::TakeSeeded(Order order) {
  const uint64_t pages = std::min(order.pages().value(), seeded_pages_);
  seeded_pages_ -= pages;
  pages_ -= pages;
}

void PcpReconstruction::Remove(ListedBlocks::Index block) {
  Take(blocks_[block].list - first_list_, block);
}

void PcpReconstruction::DrainThrough(ListedBlocks::Index block,
                                     Blocks& drained) {
  const size_t index = blocks_[block].list - first_list_;
  if (!blocks_[block].assumed) {
    while (blocks_.Oldest(ListOf(index)) != block) DrainOldest(index, drained);
    DrainOldest(index, drained);
    return;
  }
  const ListedBlocks::Block taken = Take(index, block);
  drained.push_back({.pfn = taken.pfn,
                     .order = taken.order,
                     .never_left_zone = true,
                     .reported = taken.reported});
  ++lists_[index].placeholders;
  pages_ += taken.order.pages().value();
}

ListedBlocks::Block PcpReconstruction::Take(size_t index,
                                            ListedBlocks::Index block) {
  const ListedBlocks::Block taken = blocks_.Remove(block);
  if (taken.assumed) --lists_[index].assumed;
  pages_ -= taken.order.pages().value();
  return taken;
}

bool PcpReconstruction::DrainOldest(size_t index, Blocks& drained) {
  const ListedBlocks::Index oldest = blocks_.Oldest(ListOf(index));
  if (oldest == ListedBlocks::kNone) return false;
  const ListedBlocks::Block taken = Take(index, oldest);
  drained.push_back(
      {.pfn = taken.pfn, .order = taken.order, .reported = taken.reported});
  return true;
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
    while (left > 0) {
      if (list.placeholders > 0) {
        --list.placeholders;
        pages_ -= each;
      } else if (!DrainOldest(index, drained)) {
        break;
      }
      left -= std::min(left, each);
    }
  }
}

}  // namespace guestmm
