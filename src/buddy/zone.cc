#include "guestmm/buddy/zone.h"

#include <algorithm>
#include <bit>

#include "guestmm/base/check.h"
#include "src/buddy/zone_lists.h"
#include "src/buddy/zone_paths.h"

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

Watermarks Zone::watermarks() const {
  return {.min = PageCount(min_.Get()),
          .low = PageCount(low_.Get()),
          .high = PageCount(high_.Get())};
}

AllocationEvents Zone::events() const {
  return {.allocations = allocations_.Get(),
          .allocated_pages = allocated_pages_.Get(),
          .freed_pages = freed_pages_.Get()};
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

// Allocating -----------------------------------------------------------------

inline void Zone::NotifyOfUse(size_t blocks) const {
  if (use_observer_ != nullptr) [[unlikely]]
    use_observer_->OnZoneUsed(*this, blocks);
}

[[gnu::always_inline]] inline size_t Zone::TakeBlocks(ListChange& change,
                                                      Order order,
                                                      MigrateType type,
                                                      Mixing mixing,
                                                      size_t most, Pfn& first) {
  uint64_t orders = 0;
  while ((orders = change.NonemptyOrders(type, order)) == 0) [[unlikely]] {
      change.Publish();
      if (!Steal(order, type, mixing)) return 0;
      change.Reload();
    }
  return ZonePaths::Split(change, orders, order, type, most, first);
}

Pfn Zone::Take(Order order, MigrateType type, Mixing mixing) {
  ListChange change(*this);
  Pfn pfn;
  const size_t taken = TakeBlocks(change, order, type, mixing, 1, pfn);
  NotifyOfUse(taken);
  if (taken == 0) return kNoPfn;
  ZonePaths::Finish(*this, change, pfn, order, type);
  if (taken_observer_ != nullptr) {
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

FreeBlockObserver* Zone::FreeAllocated(Pfn pfn, Order order, bool tell) {
  const bool may_free = order <= max_order() && pfn < pages_.end() &&
                        pages_.IsAllocated(pfn, order) && IsOurs(pfn);
  if (!may_free && !MayFreePinned(pfn, order)) [[unlikely]]
    return nullptr;
  NotifyOfUse(1);
  return ZonePaths::MergeAllocated(*this, pfn, order,
                                   pages_.pageblock(pfn).type, tell);
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

FreeBlockObserver* Zone::FreeCached(const CachedRun& run) {
  NotifyOfUse(1);
  const Pfn pfn = run.blocks.front();
  const MigrateType type = run.type && isolate_pageblocks_ == 0
                               ? *run.type
                               : pages_.pageblock(pfn).type;
  ListChange change(*this);
  return ZonePaths::Tell(*this, change,
                         ZonePaths::Merge(*this, change, pfn, run.order, type,
                                          /*to_tail=*/false));
}

namespace {

// True if `pfn` is inside the buddy of `block`.
bool IsInBuddy(Pfn pfn, Zone::Block block) {
  return (pfn.value() ^ block.pfn.value()) >> block.order.value() == 1;
}

}  // namespace

FreeBlockObserver* Zone::FreeBulk(std::span<const CachedRun> runs) {
  size_t blocks = 0;
  for (const CachedRun& run : runs) blocks += run.blocks.size();
  NotifyOfUse(blocks);
  ListChange change(*this);
  Unlisted::Stack stack;
  Unlisted unlisted(stack);
  const auto list = [&](Pfn pfn, Order order, MigrateType type)
      __attribute__((always_inline)) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    change.Add(pfn, order, type,
               ZonePaths::EndFor(*this, change.lists(), pfn, order));
  };
  FreeBlockObserver* to_wake = nullptr;
  const auto tell = [&](Block freed) __attribute__((always_inline))
  ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    if (FreeBlockObserver* observer = ZonePaths::Tell(*this, change, freed)) {
      to_wake = observer;
    }
  };
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
      if (!unlisted.empty() && !unlisted.MayTake(pfn)) {
        unlisted.TakeAll(stack, list);
      }
      if (unlisted.empty()) {
        const Block freed =
            ZonePaths::MergeUnlisted(*this, change, nullptr, pfn, order, type);
        // Blocks that the next one cannot merge with need not wait for it.
        if (at == run.blocks.data() || !IsInBuddy(at[-1], freed)) {
          list(freed.pfn, freed.order, type);
          tell(freed);
          continue;
        }
        unlisted.Push(freed.pfn, freed.order, type);
        if (freed.order.value() < observer_min_order_) continue;
        unlisted.TakeAll(stack, list);
        tell(freed);
        continue;
      }
      const Block freed =
          ZonePaths::MergeUnlisted(*this, change, &unlisted, pfn, order, type);
      const bool fits =
          unlisted.empty() || freed.order.value() < unlisted.order();
      unlisted.Push(freed.pfn, freed.order, type);
      if (fits && freed.order.value() < observer_min_order_) [[likely]] {
        continue;
      }
      unlisted.TakeAll(stack, list);
      tell(freed);
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

uint64_t Zone::CountFreeBlocks(Order order, MigrateType type) const {
  uint64_t count = 0;
  ForEachFreeBlock(order, type, [&](Pfn) { ++count; });
  return count;
}

std::optional<Pfn> Zone::NextFreeBlock(Pfn pfn, Order order,
                                       MigrateType type) const {
  CheckOnFreeList(pfn, order);
  if (order == kMaxOrder) {
    ListUntouched(pfn);
    ListUntouchedAfter(pfn);
  }
  const PageMap::Index next =
      pages_.lists().Next(static_cast<PageMap::Index>(pfn.value()));
  return ToOptional(next == List(order, type) ? kNoPfn : Pfn(next));
}

void Zone::RotateFreeList(Order order, MigrateType type, Pfn first) {
  CheckOnFreeList(first, order);
  ListUntouched(first);
  pages_.lists().RotateToFront(List(order, type), first);
}

void Zone::MarkReported(Pfn pfn) {
  static_cast<void>(OrderOfFree(pfn));
  ListUntouched(pfn);
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
  return Insert(block.pfn_, block.order_, pageblock_type(block.pfn_),
                to == ReturnTo::kTail || cold_to_tail())
      .order;
}

Zone::Block Zone::Insert(Pfn pfn, Order order, MigrateType type, bool to_tail) {
  ListChange change(*this);
  return ZonePaths::Merge(*this, change, pfn, order, type, to_tail);
}

void Zone::SetPageblockType(Pfn pfn, MigrateType type) {
  const PageMap::Pageblock old = pages_.pageblock(pfn);
  retyped_ = retyped_ || (old.zone == options_.index && old.type != type &&
                          old.type != MigrateType::kIsolate &&
                          type != MigrateType::kIsolate);
  pages_.SetPageblock(
      pfn, {.zone = static_cast<uint8_t>(options_.index), .type = type});
}

}  // namespace guestmm
