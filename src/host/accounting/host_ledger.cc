#include "guestmm/host/accounting/host_ledger.h"

#include <algorithm>
#include <chrono>

#include "guestmm/base/join_adjacent.h"

namespace guestmm {
namespace {

uint32_t Milliseconds(Nanoseconds time) {
  return static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
}

}  // namespace

HostLedger::HostLedger(Pfn end, Order granule, Writers users)
    : granule_(granule),
      tracks_use_(users == Writers::kOne),
      in_use_(end.value(), users),
      resident_(end.AlignUp(granule).value(), users),
      needed_(end.AlignUp(granule).value(), users),
      split_(granule == Order(0) ? 0 : NumberOf(end.AlignUp(granule)), users),
      discarded_ms_(end.AlignUp(granule).value()) {
  needed_.Set(0, end.AlignUp(granule).value());
}

PfnRange HostLedger::GranuleOf(Pfn pfn) const {
  return PagesOf(pfn.AlignDown(granule_), granule_);
}

PfnRange HostLedger::Inside(PfnRange run) const {
  const Pfn start = run.start.AlignUp(granule_);
  return {.start = start, .end = std::max(start, run.end.AlignDown(granule_))};
}

std::array<PfnRange, 2> HostLedger::PartsOf(PfnRange run) const {
  const PfnRange inside = Inside(run);
  const Pfn first_end = std::min(inside.start, run.end);
  const Pfn last_start = std::clamp(inside.end, first_end, run.end);
  return {PfnRange{.start = run.start, .end = first_end},
          PfnRange{.start = last_start, .end = run.end}};
}

bool HostLedger::IsWhole(Pfn pfn) const {
  return granule_ > Order(0) && !IsSplit(pfn) && AnyResident(GranuleOf(pfn));
}

void HostLedger::OnAllocatedAbsent(Pfn pfn, Order order) {
  if (order >= granule_ || IsSplit(pfn)) return;
  const PfnRange granule = GranuleOf(pfn);
  if (AnyResident(granule)) return;
  needed_.Set(granule.start.value(), granule.pages().value());
}

HostMappings HostLedger::OnTouchedAbsent(Pfn pfn, Order order,
                                         Nanoseconds now) {
  const PfnRange block = PagesOf(pfn, order);
  Use(pfn, order);
  HostMappings faults;
  if (granule_ == Order(0)) {
    const Mapped mapped = Map(block, now);
    faults.pages = mapped.pages;
    refaults_.fetch_add(mapped.refaults, std::memory_order_relaxed);
    return faults;
  }
  for (Pfn at = block.start; at < block.end; at = GranuleOf(at).end) {
    TouchIn({.start = at, .end = std::min(block.end, GranuleOf(at).end)}, now,
            faults);
  }
  return faults;
}

void HostLedger::TouchIn(PfnRange pages, Nanoseconds now,
                         HostMappings& faults) {
  const bool split = IsSplit(pages.start);
  const PfnRange maps = split ? pages : GranuleOf(pages.start);
  const Mapped mapped = Map(maps, now);
  if (mapped.pages == 0) return;
  if (split) {
    faults.pages += mapped.pages;
  } else {
    ++faults.granules;
    needed_.Set(maps.start.value(), maps.pages().value());
  }
  refaults_.fetch_add(
      split ? mapped.refaults : std::min<uint64_t>(1, mapped.refaults),
      std::memory_order_relaxed);
}

HostLedger::Mapped HostLedger::Map(PfnRange pages, Nanoseconds now) {
  Mapped mapped;
  resident_.Set(pages.start.value(), pages.pages().value(), [&](uint64_t page) {
    ++mapped.pages;
    const uint32_t discarded =
        std::atomic_ref(discarded_ms_[page]).load(std::memory_order_relaxed);
    if (discarded != 0 &&
        Milliseconds(now) < discarded - 1 + Milliseconds(kRefaultWindow)) {
      ++mapped.refaults;
    }
  });
  if (mapped.pages > 0) {
    resident_count_.fetch_add(mapped.pages, std::memory_order_relaxed);
  }
  return mapped;
}

void HostLedger::Unmap(PfnRange pages, Nanoseconds now) {
  uint64_t discarded = 0;
  resident_.Clear(
      pages.start.value(), pages.pages().value(), [&](uint64_t page) {
        ++discarded;
        std::atomic_ref(discarded_ms_[page])
            .store(Milliseconds(now) + 1, std::memory_order_relaxed);
      });
  discarded_count_.fetch_add(discarded, std::memory_order_relaxed);
  resident_count_.fetch_sub(discarded, std::memory_order_relaxed);
}

void HostLedger::OnReported(std::span<const GpaRange> ranges, Nanoseconds now) {
  for (const PfnRange& run : JoinRanges(ranges)) {
    reported_bytes_.fetch_add(run.pages().bytes(), std::memory_order_relaxed);
    needed_count_.fetch_add(
        needed_.Clear(run.start.value(), run.pages().value()),
        std::memory_order_relaxed);
    if (granule_ == Order(0)) {
      Unmap(run, now);
      continue;
    }
    for (const PfnRange& part : PartsOf(run)) {
      if (!AnyResident(part)) continue;
      split_.Set(NumberOf(part.start), 1);
      Unmap(part, now);
      // A page table of its own outlives its last page.
      if (granule_ < kPageblockOrder && !AnyResident(GranuleOf(part.start))) {
        split_.Clear(NumberOf(part.start), 1);
      }
    }
    const PfnRange inside = Inside(run);
    Unmap(inside, now);
    split_.Clear(NumberOf(inside.start),
                 NumberOf(inside.end) - NumberOf(inside.start));
  }
}

void HostLedger::OnUnplugged(PfnRange pages) {
  const PfnRange inside = Inside(pages);
  resident_count_.fetch_sub(
      resident_.Clear(inside.start.value(), inside.pages().value()),
      std::memory_order_relaxed);
  needed_.Set(inside.start.value(), inside.pages().value());
  // Single pages are never split.
  if (granule_ == Order(0)) return;
  split_.Clear(NumberOf(inside.start),
               NumberOf(inside.end) - NumberOf(inside.start));
}

bool HostLedger::OnCollapsed(Pfn pfn) {
  const PfnRange granule = GranuleOf(pfn);
  if (granule_ == Order(0) || !IsSplit(pfn) || !AnyResident(granule)) {
    return false;
  }
  resident_count_.fetch_add(
      resident_.Set(granule.start.value(), granule.pages().value()),
      std::memory_order_relaxed);
  needed_.Set(granule.start.value(), granule.pages().value());
  split_.Clear(NumberOf(pfn), 1);
  return true;
}

std::optional<Pfn> HostLedger::FirstInUse(
    std::span<const GpaRange> ranges) const {
  for (const PfnRange& run : JoinRanges(ranges)) {
    if (!in_use_.Any(run.start.value(), run.pages().value())) continue;
    Pfn pfn = run.start;
    while (!in_use_.Test(pfn.value())) pfn += PageCount(1);
    return pfn;
  }
  return std::nullopt;
}

HostMappings HostLedger::MappedIn(PfnRange run) const {
  const auto count = [this](PfnRange pages) {
    return resident_.Count(pages.start.value(), pages.pages().value());
  };
  if (granule_ == Order(0)) return {.pages = count(run)};
  HostMappings mapped;
  for (const PfnRange& part : PartsOf(run)) {
    mapped.pages += count(part);
  }
  const PfnRange inside = Inside(run);
  for (Pfn at = inside.start; at < inside.end; at += granule_.pages()) {
    if (IsSplit(at)) {
      mapped.pages += count(GranuleOf(at));
    } else if (AnyResident(GranuleOf(at))) {
      ++mapped.granules;
    }
  }
  return mapped;
}

uint64_t HostLedger::SplitBy(PfnRange run) const {
  uint64_t splits = 0;
  if (granule_ == Order(0)) return splits;
  for (const PfnRange& part : PartsOf(run)) {
    if (part.start < part.end && IsWhole(part.start)) ++splits;
  }
  return splits;
}

LedgerCounters HostLedger::counters() const {
  const auto bytes = [](const std::atomic<uint64_t>& pages) {
    return PageCount(pages.load(std::memory_order_relaxed)).bytes();
  };
  return {.reported_bytes = reported_bytes_.load(std::memory_order_relaxed),
          .needed_bytes = bytes(needed_count_),
          .discarded_bytes = bytes(discarded_count_),
          .refaults = refaults_.load(std::memory_order_relaxed)};
}

std::vector<PfnRange> JoinRanges(std::span<const GpaRange> ranges) {
  std::vector<PfnRange> runs;
  runs.reserve(ranges.size());
  for (const GpaRange& range : ranges) runs.push_back(PagesOf(range));
  JoinAdjacent(
      runs,
      [](const PfnRange& a, const PfnRange& b) { return a.start < b.start; },
      [](PfnRange& last, const PfnRange& run) {
        if (run.start != last.end) return false;
        last.end = run.end;
        return true;
      });
  return runs;
}

}  // namespace guestmm
