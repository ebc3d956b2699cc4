// The operations with which a zone follows a recorded allocator, block by
// block.

#include <span>

#include "guestmm/buddy/zone.h"
#include "src/buddy/zone_lists.h"

namespace guestmm {

bool Zone::TakeAt(Pfn pfn, Order order, MigrateType type) {
  const std::optional<Block> around = FreeBlockAround(pfn);
  if (!around || around->order < order) return false;
  const MigrateType list_type = pages_.pageblock(pfn).type;
  {
    ListChange change(*this);
    change.Remove(around->pfn, around->order);
    // Splits the half that contains the block again; frees the other half.
    for (int at = around->order.value() - 1; at >= order.value(); --at) {
      const Order half(at);
      change.Add(pfn.AlignDown(half).Buddy(half), half, list_type,
                 ListEnd::kHead);
    }
    change.SubtractPages(list_type, order.pages());
  }
  allocations_.Add(1);
  allocated_pages_.Add(order.pages().value());
  pages_.SetAllocated(pfn, order, type);
  if (taken_observer_ != nullptr) {
    const PfnRange run = PagesOf(pfn, order);
    taken_observer_->OnBlocksTaken(*this, std::span(&run, 1), order);
  }
  return true;
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
