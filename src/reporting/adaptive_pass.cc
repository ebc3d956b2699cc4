// The passes of AdaptivePolicy: when they begin, what they isolate, and how it
// is returned.

#include <algorithm>

#include "guestmm/reporting/adaptive_policy.h"

namespace guestmm {
namespace {

using std::chrono::milliseconds;

// A pass reports at most kPassBytes or 1/kPassPart of the queued memory,
// whichever is more.
constexpr uint64_t kPassBytes = 256 * kMiB;
constexpr uint64_t kPassPart = 32;
// The minimum time between two passes.
constexpr milliseconds kPause(100);

// The number of times that the wait doubles while reports fail, or while all
// queued memory is in zones near their watermarks.
constexpr int kMostDoublings = 4;

// Pages and regions that are examined in one hold of a zone's lock, in addition
// to those isolated.
constexpr int kLooksAHold = 256;

// A zone is quiet if at most 1/kQuietPart of it was taken in the last
// kQuietTime milliseconds.
constexpr UnreportedMemory::Time kQuietTime = 1000;
constexpr uint64_t kQuietPart = 1024;

}  // namespace

std::optional<Nanoseconds> AdaptivePolicy::NextPass() {
  // Set before the scan: memory that is queued after it requests a pass itself.
  idle_.store(true, std::memory_order_relaxed);
  const Time now = Now();
  // Often, for memory that is freed meanwhile; seldom if nothing may be
  // isolated.
  const Nanoseconds often = options_.delay;
  const Nanoseconds seldom =
      options_.delay * (1 << std::min(refused_passes_, kMostDoublings));
  const Nanoseconds pause = std::min<Nanoseconds>(kPause, often);
  std::optional<Nanoseconds> next;
  bool refused = true;
  for (TrackedZone& tracked : zones_) {
    if (IsEmpty(tracked)) continue;
    ZoneLockGuard hold(*tracked.zone);
    for (const Queue queue : {Queue::kSettling, Queue::kCold}) {
      const std::optional<Pfn> head = tracked.memory.Head(queue);
      if (!head) continue;
      const Time due_at =
          tracked.memory.region(*head).queued + Age(tracked, queue);
      const Nanoseconds due =
          milliseconds(std::max(0, static_cast<int32_t>(due_at - now)));
      const Nanoseconds wait =
          tracked.refused ? seldom : std::clamp(due, pause, often);
      next = std::min(next.value_or(wait), wait);
      refused = refused && tracked.refused;
    }
  }
  refused_passes_ = next && refused ? refused_passes_ + 1 : 0;
  if (!next) return std::nullopt;
  if (failures_ > 0) {
    next = options_.delay * (1 << std::min(failures_, kMostDoublings));
  }
  next_pass_.store(now + ToTime(*next), std::memory_order_relaxed);
  idle_.store(false, std::memory_order_relaxed);
  return next;
}

void AdaptivePolicy::BeginPass() {
  in_pass_ = true;
  zones_left_ = zones_.size();
  const Time now = Now();
  settling_.Adapt(now);
  cold_.Adapt(now);
  uint64_t regions = 0;
  for (TrackedZone& tracked : zones_) {
    if (IsEmpty(tracked)) continue;
    ZoneLockGuard hold(*tracked.zone);
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

bool AdaptivePolicy::NextBatch(Scatterlist& list) {
  if (!in_pass_) BeginPass();
  // The hooks' time (NowOrNextPass) must not lag behind a long pass.
  next_pass_.store(Now() + ToTime(options_.delay), std::memory_order_relaxed);
  while (zones_left_ > 0 && budget_bytes_ > 0) {
    const bool more =
        !IsEmpty(zones_[at_zone_]) && Fill(zones_[at_zone_], list);
    if (!list.empty()) return true;
    if (more) continue;
    --zones_left_;
    at_zone_ = (at_zone_ + 1) % zones_.size();
  }
  // If the budget is spent, the next pass continues at this zone.
  in_pass_ = false;
  return false;
}

AdaptivePolicy::Time AdaptivePolicy::Age(const TrackedZone& tracked,
                                         Queue queue) const {
  const AdaptiveDelay& patience = queue == Queue::kCold ? cold_ : settling_;
  // In a quiet zone refaults are not expected.
  return tracked.quiet ? patience.shortest() : patience.age();
}

PageCount AdaptivePolicy::Room(const TrackedZone& tracked) const {
  const ReportableZone& zone = *tracked.zone;
  const PageCount low = zone.watermarks().low;
  if (zone.free_pages() <= low) return PageCount(0);
  // Shared by the reports in flight.
  const uint64_t above = (zone.free_pages() - low).value() / options_.reports;
  if (tracked.quiet) {
    // At least one block, so that all of the zone is reported in the end.
    return std::max(PageCount(above / 2), zone.max_order().pages());
  }
  return PageCount(above / 4);
}

bool AdaptivePolicy::Fill(TrackedZone& tracked, Scatterlist& list) {
  ZoneLockGuard hold(*tracked.zone);
  if (tracked.refused) return false;
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
    if (budget_bytes_ == 0) return true;
  }
  return true;
}

std::optional<Pfn> AdaptivePolicy::NextDue(TrackedZone& tracked, Queue queue,
                                           int& looks) {
  const Time now = Now();
  const Time age = Age(tracked, queue);
  for (; looks > 0; --looks) {
    const std::optional<Pfn> head = tracked.memory.Head(queue);
    // Regions behind it have not waited longer.
    if (!head || !Waited(tracked.memory.region(*head).queued, now, age)) break;
    if (Waited(tracked.memory.region(*head).active, now, age)) return head;
    tracked.memory.Enqueue(*head, queue, now);
  }
  return std::nullopt;
}

AdaptivePolicy::Look AdaptivePolicy::LookAtRegion(TrackedZone& tracked,
                                                  Pfn region, Queue queue,
                                                  int& looks,
                                                  Scatterlist& list) {
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
  if (floor_ == options_.order ||
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

AdaptivePolicy::Look AdaptivePolicy::LookAtPieces(TrackedZone& tracked,
                                                  Pfn region, int& looks,
                                                  Scatterlist& list) {
  const Pfn end = region + options_.order.pages();
  Pfn at = region;
  if (region <= tracked.next_piece && tracked.next_piece < end) {
    at = tracked.next_piece;
  }
  while (at < end) {
    // Skips memory that the host has.
    const std::optional<PfnRange> run =
        tracked.memory.FindRun({.start = at, .end = end});
    if (!run) break;
    at = run->start.AlignDown(floor_);
    const std::optional<Zone::Block> block =
        tracked.zone->FreeBlockAround(run->start);
    tracked.next_piece = at;
    if (--looks <= 0) return Look::kMore;
    if (!block || block->order < floor_) {
      at += floor_.pages();
      continue;
    }
    const Look look = LookAtBlock(tracked, *block, list);
    if (look != Look::kDone) return look;
    at = block->pfn + block->order.pages();
  }
  tracked.next_piece = end;
  return Look::kDone;
}

AdaptivePolicy::Look AdaptivePolicy::LookAtBlock(TrackedZone& tracked,
                                                 Zone::Block block,
                                                 Scatterlist& list) {
  const PfnRange pages = PagesOf(block.pfn, block.order);
  // Marked: an earlier policy reported it, and it was not used since.
  if (tracked.zone->IsReported(block.pfn)) tracked.memory.Clear(pages);
  std::optional<PfnRange> run = tracked.memory.FindRun(pages);
  if (!run) return Look::kDone;
  if (list.full()) return Look::kMore;
  if (tracked.zone->pageblock_type(block.pfn) == MigrateType::kIsolate) {
    return Look::kLater;
  }
  if (block.order.pages() > tracked.room) return Look::kRefused;
  std::optional<IsolatedBlock> isolated = tracked.zone->Isolate(block.pfn);
  if (!isolated) return Look::kRefused;
  parts_.clear();
  while (run && list.size() + parts_.size() < list.capacity()) {
    parts_.push_back({.gpa = ToGpa(run->start), .bytes = run->pages().bytes()});
    budget_bytes_ -= std::min(budget_bytes_, run->pages().bytes());
    run = run->end < pages.end
              ? tracked.memory.FindRun({.start = run->end, .end = pages.end})
              : std::nullopt;
  }
  // Now, not once they were reported: what is taken meanwhile may be mapped
  // with them, after their discard.
  for (const GpaRange& part : parts_) tracked.memory.Clear(PagesOf(part));
  tracked.room -= block.order.pages();
  list.Add(*std::move(isolated), parts_);
  return run ? Look::kMore : Look::kDone;
}

void AdaptivePolicy::ReturnBatch(Scatterlist& list, bool acknowledged) {
  if (list.empty()) return;
  TrackedZone& tracked = Tracked(list.blocks().front());
  UnreportedMemory& memory = tracked.memory;
  failures_ = acknowledged ? 0 : failures_ + 1;
  if (!acknowledged) budget_bytes_ = 0;  // the pass is over
  ZoneLockGuard hold(*tracked.zone);
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
      PatienceFor(memory.region(pages.start).reported_from)
          .OnReported(pages.pages().value() >> unit_.value());
    }
  }
  if (!acknowledged) {
    for (const GpaRange& range : list.ranges()) memory.Mark(PagesOf(range));
  }
  for (IsolatedBlock& block : list.TakeAll()) {
    const Pfn pfn = block.pfn();
    const Order merged =
        tracked.zone->Return(std::move(block), ReturnTo::kTail);
    const Pfn head = pfn.AlignDown(merged);
    if (memory.FindRun(PagesOf(head, merged))) {
      Enqueue(tracked, head, merged, now);
    } else {
      // For a later policy.
      tracked.zone->MarkReported(head);
    }
  }
}

}  // namespace guestmm
