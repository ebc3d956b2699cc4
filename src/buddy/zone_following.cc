// The operations with which a zone follows a recorded allocator, block by
// block.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include "guestmm/buddy/zone.h"
#include "src/buddy/zone_lists.h"

namespace guestmm {

uint64_t Zone::TakeAt(Pfn first, Order order, MigrateType type, uint64_t most) {
  const std::optional<Block> around = FreeBlockAround(first);
  if (!around || around->order < order) return 0;
  // Together: the largest block that begins there, within its pageblock, whose
  // type the lists go by.
  const int whole =
      std::min({std::countr_zero(first.value()), around->order.value(),
                std::max(order, pageblock_order()).value()});
  const uint64_t count = std::min(most, uint64_t{1} << (whole - order.value()));
  const PageCount pages(count << order.value());
  const MigrateType list_type = pages_.pageblock(first).type;
  {
    ListChange change(*this);
    change.Remove(around->pfn, around->order);
    // Splits the half that contains the run again; frees the other half.
    const int inner = std::bit_width(pages.value() - 1);
    for (int at = around->order.value() - 1; at >= inner; --at) {
      const Order half(at);
      change.Add(first.AlignDown(half).Buddy(half), half, list_type,
                 ListEnd::kHead);
    }
    // What stays of that half: the upper halves, as after block by block.
    for (uint64_t at = pages.value(); at < uint64_t{1} << inner;
         at += at & -at) {
      change.Add(first + PageCount(at), Order(std::countr_zero(at)), list_type,
                 ListEnd::kHead);
    }
    change.SubtractPages(list_type, pages);
  }
  allocations_.Add(count);
  allocated_pages_.Add(pages.value());
  const Pfn end = first + pages;
  for (Pfn pfn = first; pfn < end; pfn += order.pages()) {
    pages_.SetAllocated(pfn, order, type);
  }
  if (taken_observer_ != nullptr) {
    const PfnRange run = {first, end};
    taken_observer_->OnBlocksTaken(*this, std::span(&run, 1), order);
  }
  return count;
}

bool Zone::Reshape(Pfn pfn, Order order) {
  const PfnRange range = PagesOf(pfn, order);
  const Pfn head = pages_.HeadOf(pfn);
  const PageInfo around = pages_.Get(head);
  if (around.state != PageState::kAllocated) return false;
  if (head + around.order.pages() <= pfn) return false;
  const MigrateType type = pages_.AllocatedAs(head);
  const auto allocate = [&](Pfn block, Order block_order) {
    pages_.SetAllocated(block, block_order, type);
  };
  if (around.order > order) {
    for (int half = around.order.value() - 1; half >= order.value(); --half) {
      allocate(pfn.AlignDown(Order(half)).Buddy(Order(half)), Order(half));
    }
    allocate(pfn, order);
    return true;
  }
  for (BlockWalk walk(pages_, range); walk.Next();) {
    if (walk.state() != PageState::kAllocated) return false;
  }
  for (Pfn page = pfn + PageCount(1); page < range.end; page += PageCount(1)) {
    if (pages_.IsOffline(page)) return false;
    pages_.SetTail(page);
  }
  allocate(pfn, order);
  return true;
}

}  // namespace guestmm
