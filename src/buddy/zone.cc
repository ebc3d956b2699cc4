#include "guestmm/buddy/zone.h"

#include <algorithm>
#include <bit>

#include "guestmm/base/check.h"
#include "src/buddy/zone_lists.h"

namespace guestmm {

Zone::Zone(const Options& options, PageMap& pages)
    : options_(options), pages_(pages), lists_(pages.MakeLists(kListHeads)) {
  GUESTMM_CHECK(pages.pageblock_order() <= options.max_order);
  GUESTMM_CHECK(options.max_order <= kMaxOrder);
  if (options.placement.shuffle_seed) {
    shuffle_.emplace(*options.placement.shuffle_seed);
  }
}

void Zone::SetWatermarks(const Watermarks& watermarks,
                         const LowmemReserve& reserve) {
  LockHolder hold(lock_);
  min_.Set(watermarks.min.value());
  low_.Set(watermarks.low.value());
  high_.Set(watermarks.high.value());
  for (size_t i = 0; i < reserve.size(); ++i) {
    reserve_[i].Set(reserve[i].value());
  }
  SetBelowHigh(below_high_.load(std::memory_order_relaxed));
}

void Zone::SetBelowHigh(bool below) {
  below_high_.store(below, std::memory_order_relaxed);
  const bool notes = options_.watches_high && !below;
  const PageCount mark = notes ? watermarks().high : watermarks().low;
  fast_mark_.Set((mark + lowmem_reserve(type())).value());
}

void Zone::NoteBelowHigh(Order order, PageCount reserve) {
  if (!options_.watches_high || below_high_.load(std::memory_order_relaxed) ||
      WatermarkOk(order, watermarks().high + reserve)) {
    return;
  }
  LockHolder hold(lock_);
  SetBelowHigh(true);
}

void Zone::NoteReturned() {
  if (!below_high_.load(std::memory_order_relaxed) ||
      !WatermarkOk(Order(0),
                   watermarks().high + lowmem_reserve(ZoneType::kMovable))) {
    return;
  }
  LockHolder hold(lock_);
  SetBelowHigh(false);
}

void Zone::SetObserver(FreeBlockObserver* observer, Order min_order,
                       TakenBlocks taken) {
  LockHolder hold(lock_);
  observer_ = observer;
  taken_observer_ = taken == TakenBlocks::kTell ? observer : nullptr;
  observer_min_order_ = observer != nullptr ? min_order.value() : kOrders;
}

void Zone::SetUseObserver(ZoneUseObserver* observer) {
  LockHolder hold(lock_);
  use_observer_ = observer;
}

inline void Zone::NotifyOfUse(size_t blocks) const {
  if (use_observer_ != nullptr) [[unlikely]]
    use_observer_->OnZoneUsed(*this, blocks);
}

// Allocating -----------------------------------------------------------------

[[gnu::always_inline]] inline size_t Zone::TakeBlocks(ListChange& change,
                                                      Order order,
                                                      MigrateType type,
                                                      Mixing mixing,
                                                      size_t most, Pfn& first) {
  uint64_t orders = 0;
  while (true) {
    orders = change.NonemptyOrders(type) >> order.value() << order.value();
    if (orders != 0) [[likely]]
      break;
    change.Publish();
    if (!Steal(order, type, mixing)) return 0;
    change.Reload();
  }
  const Order found(std::countr_zero(orders));
  first = change.First(found, type);
  change.Remove(first, found);
  // The lists in between are empty. So with block after block the lower half of
  // what is left would be split, and its upper half taken again: what is taken
  // is adjacent, and what stays are the upper halves.
  const uint64_t in_block = found.pages().value() >> order.value();
  const uint64_t taken = most < in_block ? most : in_block;
  uint64_t at = taken << order.value();
  for (const uint64_t end = found.pages().value(); at < end; at += at & -at) {
    change.Add(first + PageCount(at), Order(std::countr_zero(at)), type,
               ListEnd::kHead);
  }
  return static_cast<size_t>(taken);
}

Pfn Zone::Take(Order order, MigrateType type, Mixing mixing) {
  ListChange change(*this);
  Pfn pfn;
  const size_t taken = TakeBlocks(change, order, type, mixing, 1, pfn);
  NotifyOfUse(taken);
  if (taken == 0) return kNoPfn;
  change.SubtractPages(type, order.pages());
  allocations_.Add(1);
  allocated_pages_.Add(order.pages().value());
  pages_.SetAllocated(pfn, order, type);
  if (taken_observer_ != nullptr) [[unlikely]] {
    change.Publish();
    const PfnRange run = PagesOf(pfn, order);
    taken_observer_->OnBlocksTaken(*this, std::span(&run, 1), order);
  }
  return pfn;
}

size_t Zone::AllocateBulk(std::span<Pfn> blocks, Order order, MigrateType type,
                          Mixing mixing) {
  ListChange change(*this);
  const PageMap::Blocks states = pages_.blocks();
  const bool tells = taken_observer_ != nullptr;
  if (tells) [[unlikely]]
    taken_runs_.clear();
  size_t taken = 0;
  while (taken < blocks.size()) {
    Pfn pfn;
    size_t adjacent =
        TakeBlocks(change, order, type, mixing, blocks.size() - taken, pfn);
    if (adjacent == 0) break;
    if (tells) [[unlikely]] {
      const Pfn end = pfn + order.pages() * adjacent;
      if (!taken_runs_.empty() && taken_runs_.back().end == pfn) {
        taken_runs_.back().end = end;
      } else {
        taken_runs_.push_back({.start = pfn, .end = end});
      }
    }
    for (; adjacent > 0; --adjacent) {
      states.SetCached(pfn, order);
      blocks[taken++] = pfn;
      pfn += order.pages();
    }
  }
  change.SubtractPages(type, PageCount(taken * order.pages().value()));
  NotifyOfUse(taken);
  if (tells && taken > 0) [[unlikely]] {
    change.Publish();
    taken_observer_->OnBlocksTaken(*this, taken_runs_, order);
  }
  return taken;
}

// Freeing --------------------------------------------------------------------

bool Zone::MayMergePageblocks(Pfn pfn, Order order, MigrateType type) const {
  const PageMap::Pageblock buddy = pages_.pageblock(pfn.Buddy(order));
  if (buddy.zone != options_.index) return false;
  if (isolate_pageblocks_ == 0 || buddy.type == type) return true;
  return type != MigrateType::kIsolate && buddy.type != MigrateType::kIsolate;
}

[[gnu::always_inline]] inline ListEnd Zone::EndFor(const PageMap::Lists& lists,
                                                   Pfn pfn, Order order) {
  if (order.value() >= max_order().value() - 1) [[unlikely]] {
    const bool shuffled = shuffle_ && order == max_order();
    return shuffled && shuffle_->OneIn(2) ? ListEnd::kTail : ListEnd::kHead;
  }
  // If the merged pair's own buddy is already free, this block's buddy is
  // likely to be freed soon. The block then goes to the tail, so that it is
  // still free by then (buddy_merge_likely).
  const Order above(order.value() + 1);
  const Pfn other = pfn.AlignDown(above).Buddy(above);
  bool likely = lists.IsFree(other, above);
  if (above >= pageblock_order()) likely = likely && IsOurs(other);
  return static_cast<ListEnd>(likely);
}

[[gnu::always_inline]] inline Zone::Block Zone::MergeUnlisted(
    ListChange& change, Unlisted* unlisted, Pfn freed, Order order,
    MigrateType type) {
  const PageMap::Lists lists = change.lists();
  const int max = max_order().value();
  const int pageblock = pageblock_order().value();
  uint64_t pfn = freed.value();
  int at = order.value();
  for (uint64_t half = order.pages().value(); at < max; half <<= 1, ++at) {
    const uint64_t buddy = pfn ^ half;
    const bool is_unlisted = unlisted != nullptr && unlisted->LastIs(buddy);
    if (!is_unlisted && !lists.IsFree(Pfn(buddy), Order(at))) break;
    if (at >= pageblock && !MayMergePageblocks(Pfn(pfn), Order(at), type))
        [[unlikely]] {
      break;
    }
    if (is_unlisted) {
      unlisted->Pop();
    } else {
      change.Remove(Pfn(buddy), Order(at));
    }
    // Branch-free, since which of the two is the lower is hard to predict.
    lists.SetTail(Pfn(pfn | half));
    pfn &= ~half;
  }
  change.AddPages(type, order.pages());
  return {.pfn = Pfn(pfn), .order = Order(at)};
}

[[gnu::always_inline]] inline Zone::Block Zone::Merge(ListChange& change,
                                                      Pfn pfn, Order order,
                                                      MigrateType type,
                                                      bool to_tail) {
  const Block merged = MergeUnlisted(change, nullptr, pfn, order, type);
  change.Add(merged.pfn, merged.order, type,
             to_tail ? ListEnd::kTail
                     : EndFor(change.lists(), merged.pfn, merged.order));
  return merged;
}

[[gnu::always_inline]] inline FreeBlockObserver* Zone::Tell(ListChange& change,
                                                            Block freed) {
  if (freed.order.value() < observer_min_order_) [[likely]] {
    return nullptr;
  }
  change.Publish();
  return observer_->OnBlockFreed(*this, freed.pfn, freed.order) ? observer_
                                                                : nullptr;
}

bool Zone::MayFreePinned(Pfn pfn, Order order) const {
  const bool ours = order <= max_order() && pfn < pages_.end() && IsOurs(pfn);
  if (ours && pages_.FreePinned(pfn, order)) return false;
  GUESTMM_CHECK(ours && pages_.IsAllocated(pfn, order))
      << "free of " << pfn << ", " << order
      << ", which is not allocated there in node " << node() << ", zone "
      << Name(type()) << ": it is "
      << (pfn < pages_.end() ? pages_.Get(pfn) : PageInfo{});
  return true;
}

[[gnu::always_inline]] inline FreeBlockObserver* Zone::FreeAllocated(
    Pfn pfn, Order order, bool tell) {
  const bool may_free = order <= max_order() && pfn < pages_.end() &&
                        pages_.IsAllocated(pfn, order) && IsOurs(pfn);
  if (!may_free && !MayFreePinned(pfn, order)) [[unlikely]]
    return nullptr;
  freed_pages_.Add(order.pages().value());
  NotifyOfUse(1);
  ListChange change(*this);
  const Block freed = Merge(change, pfn, order, pages_.pageblock(pfn).type,
                            /*to_tail=*/false);
  return tell ? Tell(change, freed) : nullptr;
}

FreeBlockObserver* Zone::Free(Pfn pfn, Order order) {
  return FreeAllocated(pfn, order, /*tell=*/true);
}

FreeBlockObserver* Zone::PutBackAt(Pfn pfn, Order order) {
  return FreeAllocated(pfn, order, /*tell=*/taken_observer_ != nullptr);
}

void Zone::PrefetchForFree(std::span<const CachedRun> runs) const {
  const PageMap::Lists lists = pages_.lists();
  for (const CachedRun& run : runs) {
    for (const Pfn pfn : run.blocks) {
      const Pfn buddy = pfn.Buddy(run.order);
      // Branch-free: if the buddy is not free, prefetches a list head, which is
      // in the cache anyway.
      const Pfn none(lists_);
      lists.PrefetchNeighbours(lists.IsFree(buddy, run.order) ? buddy : none);
      lists.PrefetchOwn(pfn);
    }
  }
}

FreeBlockObserver* Zone::FreeBulk(std::span<const CachedRun> runs) {
  size_t blocks = 0;
  for (const CachedRun& run : runs) blocks += run.blocks.size();
  NotifyOfUse(blocks);
  ListChange change(*this);
  if (blocks == 1) {
    const CachedRun& run = runs.front();
    const Pfn pfn = run.blocks.front();
    const MigrateType type = run.type && isolate_pageblocks_ == 0
                                 ? *run.type
                                 : pages_.pageblock(pfn).type;
    return Tell(change, Merge(change, pfn, run.order, type, /*to_tail=*/false));
  }
  Unlisted::Stack stack;
  Unlisted unlisted(stack);
  const auto list = [&](Pfn pfn, Order order, MigrateType type)
      __attribute__((always_inline)) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    change.Add(pfn, order, type, EndFor(change.lists(), pfn, order));
  };
  FreeBlockObserver* to_wake = nullptr;
  const bool isolating = isolate_pageblocks_ > 0;
  for (const CachedRun& run : runs) {
    const Order order = run.order;
    MigrateType type = run.type.value_or(MigrateType::kMovable);
    const bool by_pageblock = isolating || !run.type;
    for (const Pfn* at = run.blocks.data() + run.blocks.size();
         at != run.blocks.data();) {
      const Pfn pfn = *--at;
      if (by_pageblock) [[unlikely]]
        type = pages_.pageblock(pfn).type;
      if (!unlisted.MayTake(pfn)) unlisted.TakeAll(stack, list);
      const Block freed = MergeUnlisted(change, &unlisted, pfn, order, type);
      const bool fits =
          unlisted.empty() || freed.order.value() < unlisted.order();
      unlisted.Push(freed.pfn, freed.order, type);
      if (fits && freed.order.value() < observer_min_order_) [[likely]] {
        continue;
      }
      unlisted.TakeAll(stack, list);
      if (FreeBlockObserver* observer = Tell(change, freed)) {
        to_wake = observer;
      }
    }
  }
  unlisted.TakeAll(stack, list);
  return to_wake;
}

// Isolating for the host -----------------------------------------------------

std::optional<Order> Zone::FreeBlockAt(Pfn pfn) const {
  if (pfn >= pages_.end() || !IsOurs(pfn)) return std::nullopt;
  const PageInfo info = pages_.Get(pfn);
  if (info.state != PageState::kFree) return std::nullopt;
  return info.order;
}

Order Zone::OrderOfFree(Pfn pfn) const {
  const std::optional<Order> order = FreeBlockAt(pfn);
  GUESTMM_CHECK(order.has_value())
      << pfn << " is not a free block of zone " << Name(type());
  return *order;
}

std::optional<Zone::Block> Zone::FreeBlockAround(Pfn pfn) const {
  if (pfn >= pages_.end()) return std::nullopt;
  const Pfn head = pages_.HeadOf(pfn);
  const std::optional<Order> found = FreeBlockAt(head);
  if (!found || pfn >= head + found->pages()) return std::nullopt;
  return Block{.pfn = head, .order = *found};
}

void Zone::CheckOnFreeList(Pfn pfn, Order order) const {
  GUESTMM_CHECK(OrderOfFree(pfn) == order)
      << pfn << " is not on the free lists of " << order;
}

std::optional<Pfn> Zone::FirstFreeBlock(Order order, MigrateType type) const {
  const PageMap::Index list = List(order, type);
  const PageMap::Index first = pages_.lists().First(list);
  return ToOptional(first == list ? kNoPfn : Pfn(first));
}

std::optional<Pfn> Zone::NextFreeBlock(Pfn pfn, Order order,
                                       MigrateType type) const {
  CheckOnFreeList(pfn, order);
  const PageMap::Index next =
      pages_.lists().Next(static_cast<PageMap::Index>(pfn.value()));
  return ToOptional(next == List(order, type) ? kNoPfn : Pfn(next));
}

void Zone::RotateFreeList(Order order, MigrateType type, Pfn first) {
  CheckOnFreeList(first, order);
  pages_.lists().RotateToFront(List(order, type), first);
}

void Zone::MarkReported(Pfn pfn) {
  static_cast<void>(OrderOfFree(pfn));
  pages_.SetReported(pfn);
}

std::optional<IsolatedBlock> Zone::Isolate(Pfn pfn) {
  const Order order = OrderOfFree(pfn);
  if (pageblock_type(pfn) == MigrateType::kIsolate) return std::nullopt;
  // The block still counts as free here, so its size is added to the mark.
  if (!WatermarkOk(Order(0), watermarks().min + order.pages())) {
    return std::nullopt;
  }
  {
    ListChange change(*this);
    change.Remove(pfn, order);
    change.SubtractPages(MigrateType::kMovable, order.pages());
  }
  pages_.SetIsolated(pfn, order);
  isolated_pages_.Add(order.pages().value());
  if (order.value() >= pageblock_order().value() - 1) {
    for (Pfn at = pfn; at < pfn + order.pages();
         at += pageblock_order().pages()) {
      if (pageblock_type(at) != MigrateType::kHighAtomic) {
        SetPageblockType(at, MigrateType::kMovable);
      }
    }
  }
  return IsolatedBlock(*this, pfn, order);
}

Order Zone::Return(IsolatedBlock block, ReturnTo to) {
  GUESTMM_CHECK(block.zone_ == this) << "a block returned to another zone";
  block.zone_ = nullptr;
  isolated_pages_.Subtract(block.order_.pages().value());
  ListChange change(*this);
  return Merge(change, block.pfn_, block.order_, pageblock_type(block.pfn_),
               to == ReturnTo::kTail || cold_to_tail())
      .order;
}

void Zone::SetPageblockType(Pfn pfn, MigrateType type) {
  const PageMap::Pageblock old = pages_.pageblock(pfn);
  retyped_ = retyped_ || (old.zone == options_.index && old.type != type &&
                          old.type != MigrateType::kIsolate &&
                          type != MigrateType::kIsolate);
  pages_.SetPageblock(
      pfn, {.zone = static_cast<uint8_t>(options_.index), .type = type});
}

// Memory ---------------------------------------------------------------------

FreeBlockObserver* Zone::AddMemory(PfnRange range) {
  if (range.pages() == PageCount(0)) return nullptr;
  LockHolder hold(lock_);
  GUESTMM_CHECK(range.end <= pages_.end());
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    GUESTMM_CHECK(pages_.IsOffline(pfn))
        << pfn << " was given to the allocator twice";
    pages_.SetTail(pfn);
  }
  for (Pfn pfn = range.start.AlignDown(pageblock_order()); pfn < range.end;
       pfn += pageblock_order().pages()) {
    const uint8_t zone = pages_.pageblock(pfn).zone;
    GUESTMM_CHECK(zone == PageMap::Pageblock::kNoZone || IsOurs(pfn))
        << "the pageblock of " << pfn << " is another zone's";
    SetPageblockType(pfn, MigrateType::kMovable);
  }
  const auto after = std::lower_bound(
      ranges_.begin(), ranges_.end(), range,
      [](const PfnRange& a, const PfnRange& b) { return a.start < b.start; });
  const auto added = ranges_.insert(after, range);
  const auto next = added + 1;
  if (next != ranges_.end() && added->end == next->start) {
    added->end = next->end;
    ranges_.erase(next);
  }
  if (added != ranges_.begin() && (added - 1)->end == added->start) {
    (added - 1)->end = added->end;
    ranges_.erase(added);
  }
  UpdateSpan();
  managed_pages_.Add(range.pages().value());

  FreeBlockObserver* to_wake = nullptr;
  for (Pfn pfn = range.start; pfn < range.end;) {
    const int aligned = std::countr_zero(pfn.value());
    const int fitting = std::bit_width((range.end - pfn).value()) - 1;
    const Order order(std::min({aligned, fitting, max_order().value()}));
    ListChange change(*this);
    const Block freed = Merge(change, pfn, order, MigrateType::kMovable,
                              /*to_tail=*/cold_to_tail());
    if (FreeBlockObserver* observer = Tell(change, freed)) {
      to_wake = observer;
    }
    pfn += order.pages();
  }
  if (shuffle_) Shuffle();
  return to_wake;
}

void Zone::Shuffle() {
  std::vector<Pfn> blocks;
  ForEachFreeBlock(max_order(), MigrateType::kMovable,
                   [&](Pfn pfn) { blocks.push_back(pfn); });
  shuffle_->Shuffle(std::span(blocks));
  ListChange change(*this);
  for (const Pfn pfn : blocks) {
    change.Remove(pfn, max_order());
    change.Add(pfn, max_order(), MigrateType::kMovable, ListEnd::kTail);
  }
}

void Zone::UpdateSpan() {
  span_start_.Set(ranges_.empty() ? 0 : ranges_.front().start.value());
  span_end_.Set(ranges_.empty() ? 0 : ranges_.back().end.value());
}

std::array<uint64_t, kMigrateTypes> Zone::PageblocksByType() const {
  std::array<uint64_t, kMigrateTypes> counts{};
  Pfn from(0);
  for (const PfnRange& range : ranges_) {
    // Two ranges may share a pageblock.
    from = std::max(from, range.start.AlignDown(pageblock_order()));
    for (; from < range.end; from += pageblock_order().pages()) {
      ++counts[static_cast<size_t>(pageblock_type(from))];
    }
  }
  return counts;
}

}  // namespace guestmm
