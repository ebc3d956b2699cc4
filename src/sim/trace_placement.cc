#include "src/sim/trace_placement.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "src/sim/followed_per_cpu.h"

namespace guestmm {
namespace {

MigrateType TypeOf(uint8_t migratetype) {
  switch (migratetype) {
    case 0:
      return MigrateType::kUnmovable;
    case 2:
      return MigrateType::kReclaimable;
    default:
      return MigrateType::kMovable;
  }
}

// What both placements have in common.
class Follower : public TracePlacement {
 public:
  Follower(PageAllocator& allocator, HostLedger& ledger,
           ReplayCounters& counters)
      : allocator_(allocator), ledger_(ledger), counters_(counters) {}

  void Follow(const TraceEvent& event, Nanoseconds now) final {
    const bool is_alloc = event.kind == TraceEvent::Kind::kAlloc;
    ++(is_alloc ? counters_.allocations : counters_.frees);
    if (event.order > allocator_.max_order() ||
        !event.pfn.IsAligned(event.order) || !HasAll(event.pfn, event.order)) {
      ++counters_.outside_memory;
      return;
    }
    if (is_alloc) {
      Allocate(event, now);
    } else {
      Free(event);
    }
  }

  // Takes all that is not free at first, and touches it: whatever the guest has
  // in use the host has too. Without a snapshot that is everything.
  void TakeFirst(const Recording& recording) {
    const auto is_free = [&](Pfn pfn) {
      return recording.first && pfn.value() < recording.first->states.size() &&
             recording.first->states[pfn.value()] ==
                 RecordedPages::State::kFree;
    };
    for (const auto& zone : allocator_.zones()) {
      std::vector<PfnRange> ranges;
      {
        LockHolder hold(zone->lock());
        ranges = zone->ranges();
      }
      for (const PfnRange& range : ranges) {
        Pfn pfn = range.start;
        while (pfn < range.end) {
          if (is_free(pfn)) {
            pfn += PageCount(1);
            continue;
          }
          // The largest block from here on of which nothing is free.
          int order = 0;
          while (order < allocator_.max_order().value() &&
                 pfn.IsAligned(Order(order + 1)) &&
                 pfn + Order(order + 1).pages() <= range.end &&
                 NoneFree(pfn, Order(order + 1), is_free)) {
            ++order;
          }
          LockHolder hold(zone->lock());
          zone->TakeAt(pfn, Order(order), MigrateType::kMovable);
          ledger_.OnAllocated(pfn, Order(order));
          ledger_.OnTouched(pfn, Order(order), Nanoseconds(0));
          pfn += Order(order).pages();
        }
      }
    }
    if (!recording.first) return;
    for (const Pfn pfn : recording.first->reported) {
      if (!HasAll(pfn, Order(0))) continue;
      Zone& zone = allocator_.ZoneOf(pfn);
      LockHolder hold(zone.lock());
      if (const std::optional<Order> order = zone.FreeBlockAt(pfn)) {
        zone.MarkReported(pfn);
        const GpaRange range = {ToGpa(pfn), order->bytes()};
        ledger_.OnReported(std::span(&range, 1), Nanoseconds(0));
      }
    }
  }

 protected:
  virtual void Allocate(const TraceEvent& event, Nanoseconds now) = 0;
  virtual void Free(const TraceEvent& event) = 0;

  bool HasAll(Pfn pfn, Order order) const {
    const PageMap& pages = allocator_.pages();
    const PfnRange range = PagesOf(pfn, order);
    if (range.end > pages.end()) return false;
    for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
      if (pages.IsOffline(page)) return false;
    }
    return true;
  }
  void Touch(Pfn pfn, Order order, Nanoseconds now) {
    ledger_.OnAllocated(pfn, order);
    ledger_.OnTouched(pfn, order, now);
  }

  PageAllocator& allocator_;
  HostLedger& ledger_;
  ReplayCounters& counters_;

 private:
  template <typename IsFree>
  static bool NoneFree(Pfn pfn, Order order, const IsFree& is_free) {
    const PfnRange block = PagesOf(pfn, order);
    for (Pfn at = block.start; at < block.end; at += PageCount(1)) {
      if (is_free(at)) return false;
    }
    return true;
  }
};

class RecordedPlacement final : public Follower {
 public:
  RecordedPlacement(const Recording& recording, PageAllocator& allocator,
                    HostLedger& ledger, ReplayCounters& counters)
      : Follower(allocator, ledger, counters) {
    const size_t zones = allocator.zones().size();
    for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
      for (size_t index = 0; index < zones; ++index) {
        const Zone& zone = *allocator.zones()[index];
        PerCpuLimits limits = allocator.per_cpu_pages(cpu, zone).limits();
        uint64_t count = 0;
        for (const RecordedZone& recorded : recording.zones) {
          if (recorded.node != zone.node() ||
              recorded.name != Name(zone.type()) ||
              static_cast<size_t>(cpu) >= recorded.per_cpu.size()) {
            continue;
          }
          const RecordedZone::PerCpu& real =
              recorded.per_cpu[static_cast<size_t>(cpu)];
          limits = {.batch = static_cast<uint32_t>(real.batch),
                    .high = static_cast<uint32_t>(real.high)};
          count = real.count;
        }
        per_cpu_.emplace_back(limits).AddUnknown(count);
      }
    }
  }

 private:
  // Which of per_cpu_ has a block.
  using Cached = absl::flat_hash_map<uint64_t, uint32_t>;

  uint32_t IndexOf(uint16_t cpu, const Zone& zone) const {
    const auto known = static_cast<uint16_t>(allocator_.cpus() - 1);
    return static_cast<uint32_t>(std::min(cpu, known) *
                                     allocator_.zones().size() +
                                 static_cast<size_t>(zone.index()));
  }

  void Allocate(const TraceEvent& event, Nanoseconds now) override {
    Zone& zone = allocator_.ZoneOf(event.pfn);
    const MigrateType type = TypeOf(event.migratetype);
    Touch(event.pfn, event.order, now);
    if (FollowedPerCpu::Caches(event.order, kPageblockOrder)) {
      const uint32_t index = IndexOf(event.cpu, zone);
      const auto cached = cached_.find(event.pfn.value());
      if (per_cpu_[index].Take(event.pfn, event.order, type)) {
        cached_.erase(event.pfn.value());
        return;
      }
      back_.clear();
      if (cached != cached_.end() &&
          allocator_.pages().Get(event.pfn).order == event.order) {
        const uint32_t owner = cached->second;
        cached_.erase(cached);
        if (owner == index) {
          per_cpu_[index].Remove(event.pfn, event.order);
          return;
        }
        // It is allocated here to the zone, so that it need not be taken.
        per_cpu_[owner].GoneBefore(event.pfn, event.order, back_);
        per_cpu_[index].TakeUnlisted(event.order, type, back_);
        GiveBack(zone);
        return;
      }
      if (!IsFree(zone, event.pfn, event.order)) {
        per_cpu_[index].TakeUnknown(event.order);
        Force(zone, event.pfn, event.order, type);
        return;
      }
      per_cpu_[index].TakeUnlisted(event.order, type, back_);
      GiveBack(zone);
    }
    {
      LockHolder hold(zone.lock());
      if (zone.TakeAt(event.pfn, event.order, type)) return;
    }
    Force(zone, event.pfn, event.order, type);
  }

  static bool IsFree(Zone& zone, Pfn pfn, Order order) {
    LockHolder hold(zone.lock());
    const auto around = zone.FreeBlockAround(pfn);
    return around && around->order >= order;
  }

  // What should have been free is not, or not all: whatever it is, it is
  // allocated now.
  void Force(Zone& zone, Pfn pfn, Order order, MigrateType type) {
    ++counters_.forced_placements;
    Uncache(pfn, order);
    LockHolder hold(zone.lock());
    const PfnRange range = PagesOf(pfn, order);
    for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
      zone.TakeAt(page, Order(0), type);
    }
    zone.Reshape(pfn, order);
  }

  void Free(const TraceEvent& event) override {
    Zone& zone = allocator_.ZoneOf(event.pfn);
    MigrateType type;
    {
      const bool is_cached = AnyCached(event.pfn, event.order);
      LockHolder hold(zone.lock());
      const PageInfo info = allocator_.pages().Get(event.pfn);
      const bool is_whole =
          info.state == PageState::kAllocated && info.order == event.order;
      if (is_cached || (!is_whole && !zone.Reshape(event.pfn, event.order))) {
        ++counters_.unmatched_frees;
        return;
      }
      if (!is_whole) ++counters_.split_frees;
      type = zone.pageblock_type(event.pfn);
    }
    ledger_.OnFreed(event.pfn, event.order);
    back_.clear();
    if (FollowedPerCpu::Caches(event.order, kPageblockOrder)) {
      const uint32_t index = IndexOf(event.cpu, zone);
      cached_[event.pfn.value()] = index;
      per_cpu_[index].Free(event.pfn, event.order, type, back_);
    } else {
      back_.push_back({event.pfn, event.order});
    }
    GiveBack(zone);
  }

  // Gives what is in back_ to the zone.
  void GiveBack(Zone& zone) {
    FreeBlockObserver* to_wake = nullptr;
    {
      LockHolder hold(zone.lock());
      for (const FollowedPerCpu::Block& block : back_) {
        cached_.erase(block.pfn.value());
        if (FreeBlockObserver* observer = zone.Free(block.pfn, block.order)) {
          to_wake = observer;
        }
      }
    }
    if (to_wake != nullptr) to_wake->Wake();
  }

  // Calls visit(head, order) for each block that has a page of this one.
  template <typename Visit>
  void ForEachBlock(Pfn pfn, Order order, const Visit& visit) const {
    const PageMap& pages = allocator_.pages();
    const Pfn end = PagesOf(pfn, order).end;
    for (Pfn head = pages.HeadOf(pfn); head < end;) {
      const Order its = pages.Get(head).order;
      visit(head, its);
      head += its.pages();
    }
  }
  bool AnyCached(Pfn pfn, Order order) const {
    bool any = false;
    ForEachBlock(pfn, order, [&](Pfn head, Order) {
      any = any || cached_.contains(head.value());
    });
    return any;
  }
  // Blocks with a page of this one that are cached are not any more, and
  // allocated.
  void Uncache(Pfn pfn, Order order) {
    ForEachBlock(pfn, order, [&](Pfn head, Order its) {
      const auto cached = cached_.find(head.value());
      if (cached == cached_.end()) return;
      per_cpu_[cached->second].Remove(head, its);
      cached_.erase(cached);
    });
  }

  // By vCPU, then by zone.
  std::vector<FollowedPerCpu> per_cpu_;
  // Blocks that are in one of them, which to the zone are allocated, by pfn.
  Cached cached_;
  FollowedPerCpu::Blocks back_;
};

class OwnPlacement final : public Follower {
 public:
  OwnPlacement(PageAllocator& allocator, HostLedger& ledger,
               ReplayCounters& counters)
      : Follower(allocator, ledger, counters),
        ours_(allocator.pages().end().value(), kNone) {
    // What is in use at first lies where it lay.
    for (uint64_t pfn = 0; pfn < ours_.size(); ++pfn) {
      ours_[pfn] = static_cast<uint32_t>(pfn);
    }
  }

  // Once the first state is there.
  void ForgetFree() {
    for (const auto& zone : allocator_.zones()) {
      LockHolder hold(zone->lock());
      for (int order = 0; order <= allocator_.max_order().value(); ++order) {
        for (int type = 0; type < kMigrateTypes; ++type) {
          zone->ForEachFreeBlock(
              Order(order), static_cast<MigrateType>(type), [&](Pfn pfn) {
                const PfnRange block = PagesOf(pfn, Order(order));
                std::fill(
                    ours_.begin() + static_cast<ptrdiff_t>(block.start.value()),
                    ours_.begin() + static_cast<ptrdiff_t>(block.end.value()),
                    kNone);
              });
        }
      }
    }
  }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};

  void Allocate(const TraceEvent& event, Nanoseconds now) override {
    const PfnRange theirs = PagesOf(event.pfn, event.order);
    bool is_forced = false;
    for (Pfn page = theirs.start; page < theirs.end; page += PageCount(1)) {
      if (ours_[page.value()] == kNone) continue;
      is_forced = true;
      FreePages(page, Order(0), event.cpu);
    }
    if (is_forced) ++counters_.forced_placements;
    Gfp gfp = TypeOf(event.migratetype) == MigrateType::kMovable ? kGfpUser
                                                                 : kGfpKernel;
    gfp.type = TypeOf(event.migratetype);
    gfp.may_reclaim = false;
    const std::optional<Pfn> pfn =
        allocator_.Allocate(CpuOf(event), event.order, gfp);
    if (!pfn) {
      ++counters_.failed_allocations;
      return;
    }
    Touch(*pfn, event.order, now);
    for (uint64_t i = 0; i < event.order.pages().value(); ++i) {
      ours_[event.pfn.value() + i] = static_cast<uint32_t>(pfn->value() + i);
    }
  }

  void Free(const TraceEvent& event) override {
    const PfnRange theirs = PagesOf(event.pfn, event.order);
    for (Pfn page = theirs.start; page < theirs.end; page += PageCount(1)) {
      if (ours_[page.value()] == kNone) {
        ++counters_.unmatched_frees;
        return;
      }
    }
    FreePages(event.pfn, event.order, event.cpu);
  }

  int CpuOf(const TraceEvent& event) const {
    return std::min<int>(event.cpu, allocator_.cpus() - 1);
  }

  // Frees what lies where these pages of the trace's do, as one block if it is
  // one.
  void FreePages(Pfn theirs, Order order, uint16_t cpu) {
    const Pfn ours(ours_[theirs.value()]);
    const int on = std::min<int>(cpu, allocator_.cpus() - 1);
    bool is_one = ours.IsAligned(order);
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      is_one = is_one && ours_[theirs.value() + i] == ours.value() + i;
    }
    if (!is_one) {
      ++counters_.split_frees;
      const PfnRange block = PagesOf(theirs, order);
      for (Pfn page = block.start; page < block.end; page += PageCount(1)) {
        FreePages(page, Order(0), cpu);
      }
      return;
    }
    Zone& zone = allocator_.ZoneOf(ours);
    {
      LockHolder hold(zone.lock());
      const PageInfo info = allocator_.pages().Get(ours);
      if (info.state != PageState::kAllocated || info.order != order) {
        ++counters_.split_frees;
        if (!zone.Reshape(ours, order)) {
          ++counters_.unmatched_frees;
          return;
        }
      }
    }
    ledger_.OnFreed(ours, order);
    allocator_.Free(on, ours, order);
    std::fill_n(ours_.begin() + static_cast<ptrdiff_t>(theirs.value()),
                order.pages().value(), kNone);
  }

  // By the trace's pfn: where it lies here.
  std::vector<uint32_t> ours_;
};

}  // namespace

std::unique_ptr<TracePlacement> TracePlacement::Create(
    Placement placement, const Recording& recording, PageAllocator& allocator,
    HostLedger& ledger, ReplayCounters& counters) {
  if (placement == Placement::kRecorded) {
    auto recorded = std::make_unique<RecordedPlacement>(recording, allocator,
                                                        ledger, counters);
    recorded->TakeFirst(recording);
    return recorded;
  }
  auto own = std::make_unique<OwnPlacement>(allocator, ledger, counters);
  own->TakeFirst(recording);
  own->ForgetFree();
  return own;
}

}  // namespace guestmm
