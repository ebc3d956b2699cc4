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

uint64_t GranulesBefore(Pfn end, Order granule) {
  return end.AlignUp(granule).value() >> granule.value();
}

}  // namespace

HostLedger::HostLedger(Pfn end, Order granule)
    : granule_(granule),
      in_use_(end.value()),
      resident_(GranulesBefore(end, granule)),
      needed_(GranulesBefore(end, granule)),
      discarded_ms_(GranulesBefore(end, granule)) {
  needed_.Set(0, GranulesBefore(end, granule));
}

HostLedger::Granules HostLedger::Around(Pfn pfn, Order order) const {
  return {.first = pfn.value() >> granule_.value(),
          .count = order <= granule_
                       ? 1
                       : uint64_t{1} << (order.value() - granule_.value())};
}

HostLedger::Granules HostLedger::Inside(PfnRange run) const {
  const Pfn start = run.start.AlignUp(granule_);
  const Pfn end = run.end.AlignDown(granule_);
  return {.first = start.value() >> granule_.value(),
          .count = start < end ? (end - start).value() >> granule_.value() : 0};
}

void HostLedger::OnAllocated(Pfn pfn, Order order) {
  const Granules granules = Around(pfn, order);
  needed_.Set(granules.first, granules.count);
}

void HostLedger::OnFreed(Pfn pfn, Order order) {
  in_use_.Clear(pfn.value(), order.pages().value());
}

uint64_t HostLedger::OnTouched(Pfn pfn, Order order, Nanoseconds now) {
  in_use_.Set(pfn.value(), order.pages().value());
  const Granules granules = Around(pfn, order);
  uint64_t faults = 0;
  uint64_t refaults = 0;
  resident_.Set(granules.first, granules.count, [&](uint64_t granule) {
    ++faults;
    const uint32_t discarded =
        discarded_ms_[granule].load(std::memory_order_relaxed);
    if (discarded != 0 &&
        Milliseconds(now) < discarded - 1 + Milliseconds(kRefaultWindow)) {
      ++refaults;
    }
  });
  if (faults > 0) {
    resident_count_.fetch_add(faults, std::memory_order_relaxed);
    refaults_.fetch_add(refaults, std::memory_order_relaxed);
  }
  return faults;
}

void HostLedger::OnReported(std::span<const GpaRange> ranges, Nanoseconds now) {
  for (const PfnRange& run : JoinRanges(ranges)) {
    reported_bytes_.fetch_add(run.pages().bytes(), std::memory_order_relaxed);
    const Granules granules = Inside(run);
    uint64_t needed = 0;
    needed_.Clear(granules.first, granules.count, [&](uint64_t) { ++needed; });
    uint64_t discarded = 0;
    resident_.Clear(granules.first, granules.count, [&](uint64_t granule) {
      ++discarded;
      discarded_ms_[granule].store(Milliseconds(now) + 1,
                                   std::memory_order_relaxed);
    });
    needed_count_.fetch_add(needed, std::memory_order_relaxed);
    discarded_count_.fetch_add(discarded, std::memory_order_relaxed);
    resident_count_.fetch_sub(discarded, std::memory_order_relaxed);
  }
}

std::optional<Pfn> HostLedger::FirstInUse(
    std::span<const GpaRange> ranges) const {
  for (const PfnRange& run : JoinRanges(ranges)) {
    const Granules granules = Inside(run);
    const Pfn start(granules.first << granule_.value());
    const PageCount pages = granule_.pages() * granules.count;
    if (in_use_.Count(start.value(), pages.value()) == 0) continue;
    Pfn pfn = start;
    while (!in_use_.Test(pfn.value())) pfn += PageCount(1);
    return pfn;
  }
  return std::nullopt;
}

PageCount HostLedger::ResidentPages(Pfn pfn, Order order) const {
  const Granules granules = Around(pfn, order);
  return std::min(granule_, order).pages() *
         resident_.Count(granules.first, granules.count);
}

LedgerCounters HostLedger::counters() const {
  return {.reported_bytes = reported_bytes_.load(std::memory_order_relaxed),
          .needed_bytes =
              needed_count_.load(std::memory_order_relaxed) * granule_.bytes(),
          .discarded_bytes = discarded_count_.load(std::memory_order_relaxed) *
                             granule_.bytes(),
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
