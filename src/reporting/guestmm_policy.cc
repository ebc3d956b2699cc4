#include "guestmm/reporting/guestmm_policy.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

using std::chrono::milliseconds;

// The longest that memory must be left alone, in milliseconds: at rest all is
// with the host within a minute.
constexpr uint32_t kLongestSettling = 8'000;
// Less than a region comes back for a cold piece, so it must be worth the wait.
// The shortest is so many times `delay`.
constexpr uint32_t kShortestCold = 4;
constexpr uint32_t kLongestCold = 32'000;

// A pass reports at most so much, or so large a part of what waits.
constexpr uint64_t kPassBytes = 256 * kMiB;
constexpr uint64_t kPassPart = 32;
// Between two passes there is at least:
constexpr milliseconds kPause(100);

// How many times `delay` a zone near its watermarks is left alone; and how
// often the wait doubles while reports fail.
constexpr int kSeldom = 4;
constexpr int kMostDoublings = 4;

// Pages and regions looked at in one hold of a zone's lock, beside those
// isolated.
constexpr int kLooksAHold = 256;

// Frees of less are not worth a call. What is taken is known anyway, so no more
// than a piece is missed until something else happens in its region.
constexpr Order kSmallestTold{5};

// A zone of which less than one part in so many was taken in so many
// milliseconds is quiet.
constexpr UnreportedMemory::Time kQuietTime = 1000;
constexpr uint64_t kQuietPart = 1024;

uint32_t Milliseconds(Nanoseconds time) {
  return static_cast<uint32_t>(
      std::chrono::duration_cast<milliseconds>(time).count());
}

PfnRange PagesOf(Pfn pfn, Order order) {
  return {.start = pfn, .end = pfn + order.pages()};
}

PfnRange PagesOf(const GpaRange& range) {
  return {.start = ToPfn(range.gpa), .end = ToPfn(range.gpa + range.bytes)};
}

}  // namespace

GuestmmPolicy::GuestmmPolicy(const GuestmmOptions& options)
    : options_(options),
      told_order_(
          std::min(options.order, std::max(options.floor, kSmallestTold))),
      settling_(Milliseconds(options.delay),
                std::max(Milliseconds(options.delay), kLongestSettling)),
      cold_(
          Milliseconds(options.delay) * kShortestCold,
          std::max(Milliseconds(options.delay) * kShortestCold, kLongestCold)) {
  GUESTMM_CHECK(options.granule <= options.order && options.order <= kMaxOrder);
  GUESTMM_CHECK(options.granule <= options.floor &&
                options.floor <= options.order);
  GUESTMM_CHECK(options.capacity > 0 && options.delay > Nanoseconds(0));
}

std::vector<std::pair<std::string_view, uint64_t>> GuestmmPolicy::parameters()
    const {
  return {{"order", options_.order.bits()},
          {"granule", options_.granule.bits()},
          {"floor", options_.floor.bits()},
          {"delay_ms", Milliseconds(options_.delay)},
          {"capacity", options_.capacity}};
}

absl::Status GuestmmPolicy::Enable(const ReportingEnvironment& environment) {
  clock_ = &environment.clock;
  holds_ = environment.holds;
  zones_.reserve(environment.zones.size());
  for (const std::unique_ptr<Zone>& zone : environment.zones) {
    zones_.push_back(
        {.zone = zone.get(),
         .memory = UnreportedMemory(options_.order, options_.granule)});
  }
  idle_.store(false, std::memory_order_relaxed);  // until NextPass
  return absl::OkStatus();
}

void GuestmmPolicy::Disable() {
  zones_.clear();
  in_pass_ = false;
  at_zone_ = 0;
  failures_ = 0;
}

GuestmmPolicy::Time GuestmmPolicy::Now() const {
  return Milliseconds(clock_->Now());
}

GuestmmPolicy::Time GuestmmPolicy::NowOrNextPass() const {
  return idle_.load(std::memory_order_relaxed)
             ? Now()
             : next_pass_.load(std::memory_order_relaxed);
}

bool GuestmmPolicy::Waited(Time since, Time now, Time age) {
  // `since` may be yet to come (NowOrNextPass), but not by much: what seems to
  // be is so long ago that the difference wrapped.
  constexpr int32_t kFarthestAhead = 24 * 60 * 60 * 1000;
  const auto passed = static_cast<int32_t>(now - since);
  return passed >= static_cast<int32_t>(age) || passed < -kFarthestAhead;
}

// Events ----------------------------------------------------------------------

void GuestmmPolicy::MemoryOnline(Zone& zone, PfnRange range) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = Now();
  // A section at a time, so as not to keep the lock.
  for (Pfn at = range.start; at < range.end;) {
    const Pfn end = std::min(
        range.end, at.AlignDown(kSectionOrder) + kSectionOrder.pages());
    LockHolder hold(zone.lock());
    tracked.memory.AddMemory({.start = at, .end = end});
    for (Pfn region = at.AlignDown(options_.order); region < end;
         region += options_.order.pages()) {
      tracked.memory.region(region).active = now;
      tracked.memory.Enqueue(region, Queue::kSettling, now);
    }
    at = end;
  }
}

void GuestmmPolicy::MemoryOffline(Zone& zone, PfnRange range) {
  LockHolder hold(zone.lock());
  Tracked(zone).memory.RemoveMemory(range);
}

bool GuestmmPolicy::BlockFreed(Zone& zone, Pfn pfn, Order order) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = NowOrNextPass();
  const Pfn end = pfn + order.pages();
  for (Pfn at = pfn; at < end; at += options_.order.pages()) {
    tracked.memory.region(at).active = now;
  }
  Enqueue(tracked, pfn, order, now);
  if (!idle_.load(std::memory_order_relaxed) ||
      !idle_.exchange(false, std::memory_order_relaxed)) {
    return false;
  }
  next_pass_.store(now + Milliseconds(options_.delay),
                   std::memory_order_relaxed);
  return true;
}

void GuestmmPolicy::Enqueue(TrackedZone& tracked, Pfn pfn, Order order,
                            Time now) {
  UnreportedMemory& memory = tracked.memory;
  const Queue queue = IsRegion(order) ? Queue::kSettling : Queue::kCold;
  const Pfn end = pfn + order.pages();
  // A look at the pieces of its region may be past it.
  if (pfn < tracked.next_piece &&
      tracked.next_piece <
          pfn.AlignDown(options_.order) + options_.order.pages()) {
    tracked.next_piece = pfn;
  }
  for (Pfn at = pfn.AlignDown(options_.order); at < end;
       at += options_.order.pages()) {
    const Queue waits_in = memory.region(at).queue;
    const bool waits = waits_in == queue || waits_in == Queue::kSettling;
    if (!waits && memory.FindRun(PagesOf(at, options_.order))) {
      memory.Enqueue(at, queue, now);
    }
  }
}

void GuestmmPolicy::BlocksTaken(Zone& zone, std::span<const Pfn> blocks,
                                Order order) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = NowOrNextPass();
  tracked.taken_pages += order.pages().value() * blocks.size();
  // Most are neighbours, since they were split off the same block.
  for (size_t i = 0; i < blocks.size();) {
    const Pfn first = blocks[i];
    Pfn end = first + order.pages();
    const Pfn region_end =
        first.AlignDown(options_.order) + options_.order.pages();
    for (++i; i < blocks.size() && blocks[i] == end && end < region_end; ++i) {
      end += order.pages();
    }
    Taken(tracked, {.start = first, .end = end}, now);
  }
}

void GuestmmPolicy::Taken(TrackedZone& tracked, PfnRange pages, Time now) {
  UnreportedMemory& memory = tracked.memory;
  const uint64_t marked = memory.Mark(pages);
  for (Pfn at = pages.start; at < pages.end; at += options_.order.pages()) {
    UnreportedMemory::Region& region = memory.region(at);
    region.active = now;
    if (region.queue == Queue::kNone && told_order_ < options_.order) {
      memory.Enqueue(at, Queue::kCold, now);
    }
  }
  if (marked > 0) {
    PatienceFor(memory.region(pages.start).reported_from).OnRefaulted(marked);
  }
}

// Passes ----------------------------------------------------------------------

std::optional<Nanoseconds> GuestmmPolicy::NextPass() {
  // Before looking: what comes after the look asks for a pass itself.
  idle_.store(true, std::memory_order_relaxed);
  const Time now = Now();
  // Often enough for what is freed meanwhile; seldom where nothing may be done.
  const Nanoseconds often = options_.delay;
  const Nanoseconds seldom = options_.delay * kSeldom;
  const Nanoseconds pause = std::min<Nanoseconds>(kPause, often);
  std::optional<Nanoseconds> next;
  for (TrackedZone& tracked : zones_) {
    ZoneHold hold(*tracked.zone, holds_);
    for (const Queue queue : {Queue::kSettling, Queue::kCold}) {
      const std::optional<Pfn> head = tracked.memory.Head(queue);
      if (!head) continue;
      const Time due_at =
          tracked.memory.region(*head).queued + Age(tracked, queue);
      const Nanoseconds due =
          milliseconds(std::max(0, static_cast<int32_t>(due_at - now)));
      const Nanoseconds wait =
          tracked.refused ? seldom : std::clamp(due, pause, often);
      next = std::min(next.value_or(seldom), wait);
    }
  }
  if (!next) return std::nullopt;
  if (failures_ > 0) {
    next = options_.delay * (1 << std::min(failures_, kMostDoublings));
  }
  next_pass_.store(now + Milliseconds(*next), std::memory_order_relaxed);
  idle_.store(false, std::memory_order_relaxed);
  return next;
}

void GuestmmPolicy::BeginPass() {
  in_pass_ = true;
  at_zone_ = 0;
  const Time now = Now();
  next_pass_.store(now + Milliseconds(options_.delay),
                   std::memory_order_relaxed);
  settling_.Adapt(now);
  cold_.Adapt(now);
  uint64_t regions = 0;
  for (TrackedZone& tracked : zones_) {
    ZoneHold hold(*tracked.zone, holds_);
    tracked.refused = false;
    if (Waited(tracked.counted_since, now, kQuietTime)) {
      const PageCount managed = tracked.zone->managed_pages();
      tracked.quiet = tracked.taken_pages * kQuietPart <= managed.value();
      tracked.taken_pages = 0;
      tracked.counted_since = now;
    }
    regions += tracked.memory.Size(Queue::kSettling) +
               tracked.memory.Size(Queue::kCold);
  }
  budget_bytes_ =
      std::max(kPassBytes, regions * options_.order.bytes() / kPassPart);
}

bool GuestmmPolicy::NextBatch(Scatterlist& list) {
  if (!in_pass_) BeginPass();
  while (at_zone_ < zones_.size()) {
    const bool more = Fill(zones_[at_zone_], list);
    if (!list.empty()) return true;
    if (!more) ++at_zone_;
  }
  in_pass_ = false;
  return false;
}

GuestmmPolicy::Time GuestmmPolicy::Age(const TrackedZone& tracked,
                                       Queue queue) const {
  const Patience& patience = queue == Queue::kCold ? cold_ : settling_;
  // Memory that no one wants does not come back into use.
  return tracked.quiet ? patience.shortest() : patience.age();
}

PageCount GuestmmPolicy::Room(const TrackedZone& tracked) const {
  const Zone& zone = *tracked.zone;
  const PageCount low = zone.watermarks().low;
  if (zone.free_pages() <= low) return PageCount(0);
  const PageCount above = zone.free_pages() - low;
  if (tracked.quiet) {
    // Whatever there is, by and by.
    return std::max(PageCount(above.value() / 2), zone.max_order().pages());
  }
  return PageCount(above.value() / 4);
}

bool GuestmmPolicy::Fill(TrackedZone& tracked, Scatterlist& list) {
  ZoneHold hold(*tracked.zone, holds_);
  if (tracked.refused || budget_bytes_ == 0) return false;
  tracked.room = Room(tracked);
  for (int looks = kLooksAHold; looks > 0; --looks) {
    Queue queue = Queue::kSettling;
    std::optional<Pfn> region = NextDue(tracked, queue, looks);
    if (!region) {
      queue = Queue::kCold;
      region = NextDue(tracked, queue, looks);
    }
    if (!region) return looks <= 0;
    switch (LookAtRegion(tracked, *region, queue, looks, list)) {
      case Look::kDone:
        break;
      case Look::kMore:
        return true;
      case Look::kLater:
        tracked.memory.Enqueue(*region, queue, Now());
        break;
      case Look::kRefused:
        tracked.memory.Enqueue(*region, queue, Now());
        tracked.refused = list.empty();
        return true;
    }
    if (budget_bytes_ == 0) return false;
  }
  return true;
}

std::optional<Pfn> GuestmmPolicy::NextDue(TrackedZone& tracked, Queue queue,
                                          int& looks) {
  const Time now = Now();
  const Time age = Age(tracked, queue);
  for (; looks > 0; --looks) {
    const std::optional<Pfn> head = tracked.memory.Head(queue);
    // What came after it has not waited longer.
    if (!head || !Waited(tracked.memory.region(*head).queued, now, age)) break;
    if (Waited(tracked.memory.region(*head).active, now, age)) return head;
    tracked.memory.Enqueue(*head, queue, now);
  }
  return std::nullopt;
}

GuestmmPolicy::Look GuestmmPolicy::LookAtRegion(TrackedZone& tracked,
                                                Pfn region, Queue queue,
                                                int& looks, Scatterlist& list) {
  UnreportedMemory& memory = tracked.memory;
  const std::optional<Zone::Block> block =
      tracked.zone->FreeBlockAround(region);
  if (block && IsRegion(block->order)) {
    const Pfn end = block->pfn + block->order.pages();
    const Time now = Now();
    for (Pfn at = block->pfn; at < end; at += options_.order.pages()) {
      if (!Waited(memory.region(at).active, now,
                  Age(tracked, Queue::kSettling))) {
        return Look::kLater;
      }
    }
    const Look look = LookAtBlock(tracked, *block, list);
    if (look != Look::kDone) return look;
    for (Pfn at = block->pfn; at < end; at += options_.order.pages()) {
      memory.Dequeue(at);
    }
    return Look::kDone;
  }
  if (options_.floor == options_.order ||
      !memory.FindRun(PagesOf(region, options_.order))) {
    memory.Dequeue(region);
    return Look::kDone;
  }
  if (queue == Queue::kSettling) {
    memory.Enqueue(region, Queue::kCold, Now());
    return Look::kDone;
  }
  const Look look = LookAtPieces(tracked, region, looks, list);
  if (look == Look::kDone) memory.Dequeue(region);
  return look;
}

GuestmmPolicy::Look GuestmmPolicy::LookAtPieces(TrackedZone& tracked,
                                                Pfn region, int& looks,
                                                Scatterlist& list) {
  const Pfn end = region + options_.order.pages();
  Pfn at = region;
  if (region <= tracked.next_piece && tracked.next_piece < end) {
    at = tracked.next_piece;
  }
  while (at < end) {
    // What the host has is passed over.
    const std::optional<PfnRange> run =
        tracked.memory.FindRun({.start = at, .end = end});
    if (!run) break;
    at = run->start.AlignDown(options_.floor);
    const std::optional<Zone::Block> block =
        tracked.zone->FreeBlockAround(run->start);
    tracked.next_piece = at;
    if (--looks <= 0) return Look::kMore;
    if (!block || block->order < options_.floor) {
      at += options_.floor.pages();
      continue;
    }
    const Look look = LookAtBlock(tracked, *block, list);
    if (look != Look::kDone) return look;
    at = block->pfn + block->order.pages();
  }
  tracked.next_piece = end;
  return Look::kDone;
}

GuestmmPolicy::Look GuestmmPolicy::LookAtBlock(TrackedZone& tracked,
                                               Zone::Block block,
                                               Scatterlist& list) {
  const PfnRange pages = PagesOf(block.pfn, block.order);
  // Untouched since a policy before this one reported it.
  if (tracked.zone->IsReported(block.pfn)) tracked.memory.Clear(pages);
  std::optional<PfnRange> run = tracked.memory.FindRun(pages);
  if (!run) return Look::kDone;
  if (list.full()) return Look::kMore;
  if (tracked.zone->pageblock_type(block.pfn) == MigrateType::kIsolate) {
    return Look::kLater;
  }
  if (block.order.pages() > tracked.room) return Look::kRefused;
  std::vector<GpaRange> parts;
  while (run && list.size() + parts.size() < list.capacity()) {
    parts.push_back({.gpa = ToGpa(run->start), .bytes = run->pages().bytes()});
    budget_bytes_ -= std::min(budget_bytes_, run->pages().bytes());
    run = run->end < pages.end
              ? tracked.memory.FindRun({.start = run->end, .end = pages.end})
              : std::nullopt;
  }
  std::optional<IsolatedBlock> isolated = tracked.zone->Isolate(block.pfn);
  if (!isolated) return Look::kRefused;
  tracked.room -= block.order.pages();
  list.Add(*std::move(isolated), parts);
  return run ? Look::kMore : Look::kDone;
}

void GuestmmPolicy::ReturnBatch(Scatterlist& list, bool acknowledged) {
  if (list.empty()) return;
  TrackedZone& tracked = Tracked(list.blocks().front().zone());
  UnreportedMemory& memory = tracked.memory;
  failures_ = acknowledged ? 0 : failures_ + 1;
  if (!acknowledged) budget_bytes_ = 0;  // the pass is over
  ZoneHold hold(*tracked.zone, holds_);
  const Time now = Now();
  if (acknowledged) {
    for (const IsolatedBlock& block : list.blocks()) {
      const Queue queue =
          IsRegion(block.order()) ? Queue::kSettling : Queue::kCold;
      const Pfn end = block.pfn() + block.order().pages();
      for (Pfn at = block.pfn(); at < end; at += options_.order.pages()) {
        memory.region(at).reported_from = queue;
      }
    }
    for (const GpaRange& range : list.ranges()) {
      const PfnRange pages = PagesOf(range);
      memory.Clear(pages);
      PatienceFor(memory.region(pages.start).reported_from)
          .OnReported(pages.pages().value() >> options_.granule.value());
    }
  }
  for (IsolatedBlock& block : list.TakeAll()) {
    const Pfn pfn = block.pfn();
    const Order merged =
        tracked.zone->Return(std::move(block), ReturnTo::kTail);
    const Pfn head = pfn.AlignDown(merged);
    if (memory.FindRun(PagesOf(head, merged))) {
      Enqueue(tracked, head, merged, now);
    } else {
      // For the policy that comes after this one.
      tracked.zone->MarkReported(head);
    }
  }
}

// Checks ----------------------------------------------------------------------

absl::Status GuestmmPolicy::CheckInvariants() const {
  for (const TrackedZone& tracked : zones_) {
    const Zone& zone = *tracked.zone;
    LockHolder hold(zone.lock());
    for (int o = told_order_.value(); o <= zone.max_order().value(); ++o) {
      for (int t = 0; t < kMigrateTypes; ++t) {
        const Order order(o);
        const auto type = static_cast<MigrateType>(t);
        for (std::optional<Pfn> pfn = zone.FirstFreeBlock(order, type); pfn;
             pfn = zone.NextFreeBlock(*pfn, order, type)) {
          if (zone.IsReported(*pfn) || Waits(tracked, *pfn, order)) continue;
          return absl::InternalError(absl::StrFormat(
              "R4: of the free block at pfn 0x%x, order %d, the host may back "
              "some, and that waits nowhere",
              pfn->value(), o));
        }
      }
    }
  }
  return absl::OkStatus();
}

bool GuestmmPolicy::Waits(const TrackedZone& tracked, Pfn pfn,
                          Order order) const {
  const Pfn end = pfn + order.pages();
  for (Pfn at = pfn; at < end; at += options_.order.pages()) {
    const PfnRange pages = {.start = at,
                            .end = std::min(end, at + options_.order.pages())};
    if (tracked.memory.FindRun(pages) &&
        tracked.memory.region(at).queue == Queue::kNone) {
      return false;
    }
  }
  return true;
}

size_t GuestmmPolicy::MemoryBytes() const {
  size_t bytes = 0;
  for (const TrackedZone& tracked : zones_) {
    bytes += tracked.memory.MemoryBytes();
  }
  return bytes;
}

}  // namespace guestmm
