#ifndef GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_
#define GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/atomic_bits.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"

namespace guestmm {

// What reporting came to, in the host's eyes.
struct LedgerCounters {
  // In the ranges reported; and of those, in granules that needed it.
  uint64_t reported_bytes = 0;
  uint64_t needed_bytes = 0;
  // In granules that were resident when they were discarded.
  uint64_t discarded_bytes = 0;
  // Granules that were touched again within kRefaultWindow of their discard.
  uint64_t refaults = 0;
};

// The host's book of a guest's memory, in granules: 4 KiB, or 2 MiB where guest
// RAM is backed by huge pages, so that one touch makes all of it resident, and
// less than all of it cannot be discarded.
//
// A granule *needs reporting* if it never was reported, or a page of it was
// allocated since. Whatever else is reported is waste.
//
// Safe from any thread. As far as threads are at work the counters may be some
// granules off.
class HostLedger {
 public:
  static constexpr Nanoseconds kRefaultWindow = std::chrono::seconds(1);

  // Of pages 0 to `end`, none resident. Every granule needs reporting.
  HostLedger(Pfn end, Order granule);

  Order granule() const { return granule_; }

  // REQUIRES for all below: the pages are below the end.

  // A vCPU has the block.
  void OnAllocated(Pfn pfn, Order order);
  // It gave it back. Only where nothing else is at work (virtual time): what
  // FirstInUse and InUsePages go by.
  void OnFreed(Pfn pfn, Order order);
  // It wrote to each page of the block at `now`. How many granules became
  // resident by that.
  uint64_t OnTouched(Pfn pfn, Order order, Nanoseconds now);
  // A report of `ranges` was acknowledged at `now`, after the host discarded
  // them. What of them is resident no longer is.
  void OnReported(std::span<const GpaRange> ranges, Nanoseconds now);

  // Whether the page was touched and not freed since.
  bool InUse(Pfn pfn) const { return in_use_.Test(pfn.value()); }
  // The first page in a granule that a report of `ranges` discards which was
  // touched and not freed since; none as it should be.
  std::optional<Pfn> FirstInUse(std::span<const GpaRange> ranges) const;
  // Pages of the block that were touched and not freed since.
  PageCount InUsePages(Pfn pfn, Order order) const {
    return PageCount(in_use_.Count(pfn.value(), order.pages().value()));
  }
  // Pages of the block in granules that are resident.
  PageCount ResidentPages(Pfn pfn, Order order) const;
  // Of everything.
  PageCount resident_pages() const {
    return granule_.pages() * resident_count_.load(std::memory_order_relaxed);
  }
  LedgerCounters counters() const;

 private:
  // Granules, by number: all that have a page of [start, end), or, inside, all
  // of whose pages are in it.
  struct Granules {
    uint64_t first;
    uint64_t count;
  };
  Granules Around(Pfn pfn, Order order) const;
  Granules Inside(PfnRange run) const;

  const Order granule_;
  // Of pages.
  AtomicBits in_use_;
  // Of granules.
  AtomicBits resident_;
  AtomicBits needed_;
  // When a granule was discarded last, in milliseconds, rounded down, plus one;
  // 0 for never.
  std::vector<std::atomic<uint32_t>> discarded_ms_;

  std::atomic<uint64_t> resident_count_{0};
  std::atomic<uint64_t> reported_bytes_{0};
  std::atomic<uint64_t> needed_count_{0};
  std::atomic<uint64_t> discarded_count_{0};
  std::atomic<uint64_t> refaults_{0};
};

// `ranges` in ascending order, neighbours joined, as a hypervisor discards
// them: one call for each run.
std::vector<PfnRange> JoinRanges(std::span<const GpaRange> ranges);

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_
