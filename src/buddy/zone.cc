#include "guestmm/buddy/zone.h"

#include <algorithm>
#include <bit>

#include "guestmm/base/check.h"

namespace guestmm {

std::string_view Name(ZoneType type) {
  switch (type) {
    case ZoneType::kDma32:
      return "DMA32";
    case ZoneType::kNormal:
      return "Normal";
  }
  return "unknown";
}

inline void Zone::AddToList(Pfn pfn, Order order, bool at_tail) {
  FreeArea& area = this->area(order);
  if (at_tail) {
    pages_.PushBack(area.list, pfn);
  } else {
    pages_.PushFront(area.list, pfn);
  }
  area.blocks.Add(PageCount(1));
  pages_.Set(pfn, PageState::kFree, order);
}

inline void Zone::TakeOffList(Pfn pfn, Order order) {
  pages_.Remove(pfn);
  area(order).blocks.Subtract(PageCount(1));
}

Zone::Zone(const Options& options, PageMap& pages)
    : options_(options), pages_(pages) {
  GUESTMM_CHECK(options.span.end <= pages.end());
  GUESTMM_CHECK(options.max_order <= kMaxOrder);
  for (FreeArea& area : areas_) area.list = pages.MakeList();
}

void Zone::AddMemory(PfnRange range) {
  GUESTMM_CHECK(span().start <= range.start && range.end <= span().end);
  LockHolder hold(lock_);
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    GUESTMM_CHECK(pages_.Get(pfn).state == PageState::kOffline)
        << pfn << " was given to the allocator twice";
    pages_.Set(pfn, PageState::kTail);
  }
  managed_pages_.Add(range.pages());
  for (Pfn pfn = range.start; pfn < range.end;) {
    const int aligned = std::countr_zero(pfn.value());
    const int fitting = std::bit_width((range.end - pfn).value()) - 1;
    const Order order(std::min({aligned, fitting, options_.max_order.value()}));
    Merge(pfn, order);
    pfn += order.pages();
  }
}

void Zone::SetWatermarks(const Watermarks& watermarks) {
  LockHolder hold(lock_);
  watermark_min_.Set(watermarks.min);
  watermark_low_.Set(watermarks.low);
  watermark_high_.Set(watermarks.high);
}

size_t Zone::AllocateBulk(std::span<Pfn> pages) {
  for (size_t i = 0; i < pages.size(); ++i) {
    const Pfn pfn = TakeBlock(Order(0), PageState::kCached);
    if (pfn == kNoPfn) return i;
    pages[i] = pfn;
  }
  return pages.size();
}

FreeBlockObserver* Zone::FreeBulk(std::span<const Pfn> pages) {
  // Most of a random free is waiting for the links around its buddies.
  for (const Pfn pfn : pages) {
    const Pfn buddy = pfn.Buddy(Order(0));
    if (IsFreeBlock(buddy, Order(0))) pages_.PrefetchNeighbours(buddy);
  }
  FreeBlockObserver* to_wake = nullptr;
  for (const Pfn pfn : pages) {
    if (FreeBlockObserver* observer =
            FreeFrom(PageState::kCached, pfn, Order(0))) {
      to_wake = observer;
    }
  }
  return to_wake;
}

std::optional<Order> Zone::FreeBlockAt(Pfn pfn) const {
  if (!span().Contains(pfn)) return std::nullopt;
  const PageInfo info = pages_.Get(pfn);
  if (info.state != PageState::kFree) return std::nullopt;
  return info.order;
}

std::optional<IsolatedBlock> Zone::Isolate(Pfn pfn) {
  GUESTMM_CHECK(span().Contains(pfn))
      << pfn << " is not in zone " << Name(type());
  const std::optional<Order> order = FreeBlockAt(pfn);
  GUESTMM_CHECK(order.has_value())
      << pfn << " is not a free block but " << pages_.Get(pfn);
  // The free pages are compared before the block is taken, so the block's size
  // is added to the mark.
  if (!WatermarkOk(Order(0), watermark_min_.Get() + order->pages())) {
    return std::nullopt;
  }
  TakeOffList(pfn, *order);
  free_pages_.Subtract(order->pages());
  pages_.Set(pfn, PageState::kIsolated, *order);
  isolated_pages_.Add(order->pages());
  return IsolatedBlock(*this, pfn, *order);
}

Order Zone::Return(IsolatedBlock block) {
  GUESTMM_CHECK(block.zone_ == this) << "a block returned to another zone";
  block.zone_ = nullptr;
  isolated_pages_.Subtract(block.order_.pages());
  return Merge(block.pfn_, block.order_).order;
}

void Zone::SetObserver(FreeBlockObserver* observer, Order min_order) {
  LockHolder hold(lock_);
  observer_ = observer;
  observer_min_order_ = observer != nullptr ? min_order.value() : kListHeads;
}

Pfn Zone::TakeBlock(Order order, PageState state) {
  int found = order.value();
  while (found <= max_order().value() &&
         pages_.Empty(area(Order(found)).list)) {
    ++found;
  }
  if (found > max_order().value()) return kNoPfn;
  const Pfn pfn(pages_.First(area(Order(found)).list));
  TakeOffList(pfn, Order(found));
  while (found > order.value()) {
    const Order half(--found);
    AddToList(pfn + half.pages(), half, /*at_tail=*/false);
  }
  free_pages_.Subtract(order.pages());
  pages_.Set(pfn, state, order);
  return pfn;
}

FreeBlockObserver* Zone::FreeFrom(PageState from, Pfn pfn, Order order) {
  GUESTMM_CHECK(order <= max_order() && span().Contains(pfn) &&
                pages_.Is(pfn, from, order))
      << "free of " << pfn << ", " << order << ", which is not " << from
      << " there in zone " << Name(type());
  const Block merged = Merge(pfn, order);
  if (merged.order.value() < observer_min_order_) [[likely]] {
    return nullptr;
  }
  return observer_->OnBlockFreed(*this, merged.pfn, merged.order) ? observer_
                                                                  : nullptr;
}

Zone::Block Zone::Merge(Pfn pfn, Order order) {
  const int max = max_order().value();
  int at = order.value();
  while (at < max) {
    const Pfn buddy = pfn.Buddy(Order(at));
    if (!IsFreeBlock(buddy, Order(at))) break;
    TakeOffList(buddy, Order(at));
    pages_.Set(std::max(pfn, buddy), PageState::kTail);
    pfn = std::min(pfn, buddy);
    ++at;
  }
  // If the buddy is likely to be freed soon, since the pair's own buddy is free
  // already, the block waits at the tail so as not to be taken before that.
  bool at_tail = false;
  if (at < max - 1) {
    const Order above(at + 1);
    at_tail = IsFreeBlock(pfn.AlignDown(above).Buddy(above), above);
  }
  AddToList(pfn, Order(at), at_tail);
  free_pages_.Add(order.pages());
  return {.pfn = pfn, .order = Order(at)};
}

}  // namespace guestmm
