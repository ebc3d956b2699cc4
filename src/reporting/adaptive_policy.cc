#include "guestmm/reporting/adaptive_policy.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

using std::chrono::milliseconds;

// The upper bound of the delay to settle, in milliseconds: at rest, all memory
// is reported within a minute.
constexpr uint32_t kLongestSettling = 8'000;
// Bounds of the delay to be cold: kShortestCold times `delay`, and kLongestCold
// milliseconds. A cold piece gains less than a region, so it waits longer.
constexpr uint32_t kShortestCold = 4;
constexpr uint32_t kLongestCold = 32'000;

// Smaller frees are not worth a call of the hook. Taken memory is tracked
// anyway, so only a piece is missed, until its region is used again.
constexpr Order kSmallestTold{5};

// BlockFreed visits every region of the block, so regions must not be small.
constexpr Order kSmallestRegion{5};

}  // namespace

const Fields<AdaptiveOptions>& AdaptiveFields() {
  static const Fields<AdaptiveOptions> fields = {
      {"order", &AdaptiveOptions::order,
       FieldKind::Orders(kSmallestRegion, kMaxOrder),
       "Smallest block that is reported wherever it is"},
      {"floor", &AdaptiveOptions::floor, FieldKind::Orders(),
       "Smallest block of cold memory that is reported, up to order; below "
       "the host's granule, its huge pages are split [granule]"},
      {"capacity", &AdaptiveOptions::capacity,
       FieldKind::Count(1, kMaxReportCapacity), "Most ranges in one report"},
      {"delay", &AdaptiveOptions::delay,
       FieldKind::Seconds(milliseconds(1), kMaxReportDelay),
       "Seconds that memory must be left alone before it is reported"},
      {"reports", &AdaptiveOptions::reports, FieldKind::Count(1, kMaxReports),
       "Most reports in flight at a time"},
  };
  return fields;
}

AdaptivePolicy::AdaptivePolicy(const AdaptiveOptions& options)
    : options_(options),
      floor_(std::min(options.order, options.floor.value_or(options.granule))),
      unit_(floor_ < options.granule ? Order(0) : options.granule),
      told_order_(std::min(options.order, std::max(floor_, kSmallestTold))),
      settling_(ToTime(options.delay),
                std::max(ToTime(options.delay), kLongestSettling)),
      cold_(ToTime(options.delay) * kShortestCold,
            std::max(ToTime(options.delay) * kShortestCold, kLongestCold)) {
  GUESTMM_CHECK(options.order <= kMaxOrder);
  GUESTMM_CHECK(options.granule <= kPageblockOrder);
  GUESTMM_CHECK(options.capacity > 0 && options.delay >= milliseconds(1));
  GUESTMM_CHECK(options.reports > 0 && options.reports <= kMaxReports);
  parts_.reserve(options.capacity);
}

std::vector<std::pair<std::string_view, uint64_t>> AdaptivePolicy::parameters()
    const {
  std::vector<std::pair<std::string_view, uint64_t>> parameters = {
      {"order", options_.order.bits()},
      {"granule", options_.granule.bits()},
      {"floor", floor_.bits()},
      {"delay_ms", ToTime(options_.delay)},
      {"capacity", options_.capacity}};
  // Records of runs with one are as they were before there was a choice.
  if (options_.reports > 1)
    parameters.emplace_back("reports", options_.reports);
  return parameters;
}

absl::Status AdaptivePolicy::Enable(const ReportingEnvironment& environment) {
  for (const ReportableZone& zone : environment.zones) {
    if (options_.order <= zone.max_order()) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "policy adaptive reports order %d and above; the largest block has "
        "order %d",
        options_.order.value(), zone.max_order().value()));
  }
  clock_ = &environment.clock;
  zones_.reserve(environment.zones.size());
  for (ReportableZone& zone : environment.zones) {
    zones_.push_back(
        {.zone = &zone,
         .memory = UnreportedMemory(options_.order, options_.granule, unit_)});
  }
  idle_.store(false, std::memory_order_relaxed);  // until NextPass
  return absl::OkStatus();
}

void AdaptivePolicy::Disabling() {
  for (TrackedZone& tracked : zones_) {
    std::vector<PfnRange> ranges;
    {
      LockHolder hold(tracked.zone->lock());
      ranges = tracked.zone->ranges();
    }
    for (const PfnRange& range : ranges) {
      for (Pfn at = range.start.AlignDown(kSectionOrder); at < range.end;
           at += kSectionOrder.pages()) {
        MarkSection(tracked, at);
      }
    }
  }
}

void AdaptivePolicy::MarkSection(TrackedZone& tracked, Pfn section) {
  ZoneLockGuard hold(*tracked.zone);
  // The section may have gone offline meanwhile.
  if (!tracked.memory.Has(section)) return;
  for (Pfn at = section; at < section + kSectionOrder.pages();) {
    const std::optional<Order> order = tracked.zone->FreeBlockAt(at);
    if (!order || *order < told_order_) {
      at += told_order_.pages();
      continue;
    }
    if (!tracked.memory.FindRun(PagesOf(at, *order))) {
      tracked.zone->MarkReported(at);
    }
    at += order->pages();
  }
}

void AdaptivePolicy::Disable() {
  zones_.clear();
  in_pass_ = false;
  at_zone_ = 0;
  failures_ = 0;
}

AdaptivePolicy::Time AdaptivePolicy::ToTime(Nanoseconds time) {
  return static_cast<Time>(
      std::chrono::duration_cast<milliseconds>(time).count());
}

AdaptivePolicy::Time AdaptivePolicy::Now() const {
  return ToTime(clock_->Now());
}

AdaptivePolicy::Time AdaptivePolicy::NowOrNextPass() const {
  return idle_.load(std::memory_order_relaxed)
             ? Now()
             : next_pass_.load(std::memory_order_relaxed);
}

bool AdaptivePolicy::Waited(Time since, Time now, Time age) {
  // `since` may be slightly in the future (NowOrNextPass). If it seems to be
  // far in the future, it is so long ago that the difference wrapped.
  constexpr int32_t kFarthestAhead = 24 * 60 * 60 * 1000;
  const auto passed = static_cast<int32_t>(now - since);
  return passed >= static_cast<int32_t>(age) || passed < -kFarthestAhead;
}

// Events ----------------------------------------------------------------------

void AdaptivePolicy::MemoryOnline(ReportableZone& zone, PfnRange range) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = Now();
  // One section for each hold, to keep holds short.
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

void AdaptivePolicy::MemoryOffline(ReportableZone& zone, PfnRange range) {
  LockHolder hold(zone.lock());
  Tracked(zone).memory.RemoveMemory(range);
}

inline void AdaptivePolicy::EnqueueFree(TrackedZone& tracked, Pfn pfn,
                                        Order order, Time now, bool was_used) {
  UnreportedMemory& memory = tracked.memory;
  const Queue queue = IsRegion(order) ? Queue::kSettling : Queue::kCold;
  const Pfn end = pfn + order.pages();
  memory.MarkSplit(PagesOf(pfn, order));
  // The scan of its region's pieces may have passed it.
  if (pfn < tracked.next_piece &&
      tracked.next_piece <
          pfn.AlignDown(options_.order) + options_.order.pages()) {
    tracked.next_piece = pfn;
  }
  for (Pfn at = pfn.AlignDown(options_.order); at < end;
       at += options_.order.pages()) {
    UnreportedMemory::Region& region = memory.region(at);
    if (was_used) region.active = now;
    const bool waits =
        region.queue == queue || region.queue == Queue::kSettling;
    if (!waits && memory.FindRun(PagesOf(at, options_.order))) [[unlikely]] {
      memory.Enqueue(at, queue, now);
    }
  }
}

void AdaptivePolicy::Enqueue(TrackedZone& tracked, Pfn pfn, Order order,
                             Time now) {
  EnqueueFree(tracked, pfn, order, now, /*was_used=*/false);
}

bool AdaptivePolicy::BlockFreed(ReportableZone& zone, Pfn pfn, Order order) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = NowOrNextPass();
  EnqueueFree(tracked, pfn, order, now, /*was_used=*/true);
  if (!idle_.load(std::memory_order_relaxed) ||
      !idle_.exchange(false, std::memory_order_relaxed)) {
    return false;
  }
  next_pass_.store(now + ToTime(options_.delay), std::memory_order_relaxed);
  return true;
}

inline void AdaptivePolicy::Taken(TrackedZone& tracked, PfnRange pages,
                                  Time now) {
  UnreportedMemory& memory = tracked.memory;
  for (Pfn at = pages.start; at < pages.end; at += options_.order.pages()) {
    UnreportedMemory::Region& region = memory.region(at);
    region.active = now;
    if (region.queue == Queue::kNone && floor_ < options_.order) [[unlikely]] {
      memory.Enqueue(at, Queue::kCold, now);
    }
  }
  // Memory in use was marked when it was first used.
  if (!memory.HasAll(pages)) [[unlikely]]
    Backed(tracked, pages, now);
}

void AdaptivePolicy::BlocksTaken(ReportableZone& zone,
                                 std::span<const PfnRange> runs, Order order) {
  TrackedZone& tracked = Tracked(zone);
  const Time now = NowOrNextPass();
  // A part of one region at a time, or one block.
  const Order part = std::max(order, options_.order);
  for (const PfnRange& run : runs) {
    tracked.taken_pages += run.pages().value();
    for (Pfn at = run.start; at < run.end;) {
      const Pfn end = std::min(run.end, at.AlignDown(part) + part.pages());
      Taken(tracked, {.start = at, .end = end}, now);
      at = end;
    }
  }
}

void AdaptivePolicy::Backed(TrackedZone& tracked, PfnRange pages, Time now) {
  UnreportedMemory& memory = tracked.memory;
  const PfnRange mapped = memory.MappedWith(pages);
  PatienceFor(memory.region(pages.start).reported_from)
      .OnRefaulted(memory.Mark(mapped));
  if (mapped != pages) EnqueueMapped(tracked, mapped, now);
}

void AdaptivePolicy::EnqueueMapped(TrackedZone& tracked, PfnRange pages,
                                   Time now) {
  UnreportedMemory& memory = tracked.memory;
  const Pfn first = pages.start.AlignDown(options_.order);
  const Pfn end = pages.end.AlignUp(options_.order);
  // The scan of a region's pieces may have passed them.
  if (first < tracked.next_piece && tracked.next_piece < end) {
    tracked.next_piece = first;
  }
  for (Pfn at = first; at < end; at += options_.order.pages()) {
    if (memory.region(at).queue == Queue::kNone) {
      memory.Enqueue(at, Queue::kSettling, now);
    }
  }
}

// Checks ----------------------------------------------------------------------

absl::Status AdaptivePolicy::CheckInvariants() const {
  for (const TrackedZone& tracked : zones_) {
    const ReportableZone& zone = *tracked.zone;
    LockHolder hold(zone.lock());
    for (int o = told_order_.value(); o <= zone.max_order().value(); ++o) {
      for (int t = 0; t < kMigrateTypes; ++t) {
        const Order order(o);
        const auto type = static_cast<MigrateType>(t);
        for (std::optional<Pfn> pfn = zone.FirstFreeBlock(order, type); pfn;
             pfn = zone.NextFreeBlock(*pfn, order, type)) {
          if (zone.IsReported(*pfn) || Waits(tracked, *pfn, order)) continue;
          return absl::InternalError(absl::StrFormat(
              "R4: a part of the free block at pfn 0x%x, order %d, that the "
              "host may back is not queued",
              pfn->value(), o));
        }
      }
    }
  }
  return absl::OkStatus();
}

bool AdaptivePolicy::Waits(const TrackedZone& tracked, Pfn pfn,
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

size_t AdaptivePolicy::MemoryBytes() const {
  size_t bytes = 0;
  for (const TrackedZone& tracked : zones_) {
    bytes += tracked.memory.MemoryBytes();
  }
  return bytes;
}

}  // namespace guestmm
