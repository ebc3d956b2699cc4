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

// The effect of reporting, by the host's account.
struct LedgerCounters {
  // All ranges reported; and the granules in them that needed reporting.
  uint64_t reported_bytes = 0;
  uint64_t needed_bytes = 0;
  // Granules that were resident when they were discarded.
  uint64_t discarded_bytes = 0;
  // Granules that were touched again within kRefaultWindow of their discard.
  uint64_t refaults = 0;
};

// The host's account of a guest's memory, in granules: 4 KiB, or 2 MiB if guest
// RAM is backed by huge pages. One touch makes a whole granule resident, and
// only a whole granule can be discarded.
//
// A granule *needs reporting* if it was never reported, or if a page of it was
// allocated since. Any other report is waste.
//
// Thread-safe. The counters may be off by some granules while other threads
// change them.
class HostLedger {
 public:
  static constexpr Nanoseconds kRefaultWindow = std::chrono::seconds(1);

  // Accounts for pages 0 to `end` - 1. None is resident, and every granule
  // needs reporting.
  HostLedger(Pfn end, Order granule);

  Order granule() const { return granule_; }

  // REQUIRES for all below: the pages are below the end.

  // A vCPU allocated the block.
  void OnAllocated(Pfn pfn, Order order);
  // It freed the block. InUse, FirstInUse and InUsePages depend on this; call
  // it only if one thread uses the ledger.
  void OnFreed(Pfn pfn, Order order);
  // A vCPU wrote to each page of the block at `now`. Returns how many granules
  // became resident.
  uint64_t OnTouched(Pfn pfn, Order order, Nanoseconds now);
  // The host discarded `ranges` at `now`, as a report asked: whole granules in
  // them are not resident any more.
  void OnReported(std::span<const GpaRange> ranges, Nanoseconds now);

  // True if the page was touched and not freed since.
  bool InUse(Pfn pfn) const { return in_use_.Test(pfn.value()); }
  // The first page in use in a granule that a report of `ranges` discards. None
  // unless the guest reports memory in use.
  std::optional<Pfn> FirstInUse(std::span<const GpaRange> ranges) const;
  // Pages of the block that were touched and not freed since.
  PageCount InUsePages(Pfn pfn, Order order) const {
    return PageCount(in_use_.Count(pfn.value(), order.pages().value()));
  }
  // Pages of the block in granules that are resident.
  PageCount ResidentPages(Pfn pfn, Order order) const;
  // All resident pages.
  PageCount resident_pages() const {
    return granule_.pages() * resident_count_.load(std::memory_order_relaxed);
  }
  LedgerCounters counters() const;

 private:
  // A range of granules, by number.
  struct Granules {
    uint64_t first;
    uint64_t count;
  };
  // Those with a page of the block; those that lie within `run`.
  Granules Around(Pfn pfn, Order order) const;
  Granules Inside(PfnRange run) const;

  const Order granule_;
  // Of pages.
  AtomicBits in_use_;
  // Of granules.
  AtomicBits resident_;
  AtomicBits needed_;
  // The time of a granule's last discard, in milliseconds, rounded down, plus
  // one; 0: never.
  std::vector<std::atomic<uint32_t>> discarded_ms_;

  std::atomic<uint64_t> resident_count_{0};
  std::atomic<uint64_t> reported_bytes_{0};
  std::atomic<uint64_t> needed_count_{0};
  std::atomic<uint64_t> discarded_count_{0};
  std::atomic<uint64_t> refaults_{0};
};

// Sorts `ranges` and joins adjacent ones, as a hypervisor does that discards
// each run with one call.
std::vector<PfnRange> JoinRanges(std::span<const GpaRange> ranges);

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_
