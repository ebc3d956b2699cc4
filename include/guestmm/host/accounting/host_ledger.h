#ifndef GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_
#define GUESTMM_HOST_ACCOUNTING_HOST_LEDGER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/atomic_bits.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/zeroed_array.h"

namespace GUESTMM_EXPORT guestmm {

// The effect of reporting, by the host's account.
struct LedgerCounters {
  // All ranges reported; and the pages in them that needed reporting.
  uint64_t reported_bytes = 0;
  uint64_t needed_bytes = 0;
  // Pages that were resident when they were discarded.
  uint64_t discarded_bytes = 0;
  // Faults within kRefaultWindow of the discard of what they mapped.
  uint64_t refaults = 0;
};

// What the host maps at a touch, or a discard unmaps.
struct HostMappings {
  // Granules of more than a page, as one.
  uint64_t granules = 0;
  // Pages, each by itself.
  uint64_t pages = 0;

  bool operator==(const HostMappings&) const = default;
};

// The host's account of a guest's memory. The host maps it in granules: pages
// of 4 KiB, or larger ones as transparent huge pages (THP).
//
// A touch maps the whole granule if nothing of it is mapped. A discard of a
// part of it *splits* it: its other pages stay, and from then on each page is
// mapped by its own touch. It is whole again after a discard of all of it, or
// when it is collapsed:
//
//                    touch                discard of a part
//      not mapped ──────────▶ whole ────────────────────────▶ split
//          ▲                    │ ▲                            │ │
//          ╰─ discard of all ───╯ ╰──────── collapse ──────────╯ │
//          ╰─────────────────── discard of all ──────────────────╯
//
// A huge page of 2 MiB that was split has a page table of its own, which only a
// discard of all of it at once frees (Linux 6.14 and later; before, none does).
// Smaller granules have none: they are whole again as soon as nothing of them
// is mapped.
//
// A page *needs reporting* if it was never reported, or if the host may have
// mapped it since: because it was allocated, or because another page of its
// granule was while nothing of that was mapped. Any other report is waste.
//
// Thread-safe if made for many threads. Then the counters may be off by some
// granules while other threads change them, and what is in use is not known:
// of one page, a thread may enter the free after another one's next allocation.
class HostLedger {
 public:
  static constexpr Nanoseconds kRefaultWindow = std::chrono::seconds(1);

  // Accounts for pages 0 to `end` - 1, for one thread or many. None is
  // resident, and every page needs reporting.
  HostLedger(Pfn end, Order granule, Writers users = Writers::kOne);

  Order granule() const { return granule_; }

  // REQUIRES for all below: the pages are below the end.

  // A vCPU allocated the block.
  void OnAllocated(Pfn pfn, Order order) {
    if (order == Order(0)) {
      needed_.SetOne(pfn.value());
      if (!resident_.Test(pfn.value())) [[unlikely]]
        OnAllocatedAbsent(pfn, order);
      return;
    }
    const uint64_t pages = order.pages().value();
    needed_.Set(pfn.value(), pages);
    if (resident_.Any(pfn.value(), pages)) [[likely]]
      return;
    OnAllocatedAbsent(pfn, order);
  }
  // It freed the block.
  void OnFreed(Pfn pfn, Order order) {
    if (!tracks_use_) return;
    if (order == Order(0)) {
      in_use_count_ -= PageCount(in_use_.ClearOne(pfn.value()) ? 1 : 0);
      return;
    }
    in_use_count_ -=
        PageCount(in_use_.Clear(pfn.value(), order.pages().value()));
  }
  // A vCPU wrote to each page of the block at `now`. Returns the host's faults.
  HostMappings OnTouched(Pfn pfn, Order order, Nanoseconds now) {
    return OnTouchedResident(pfn, order) ? HostMappings{}
                                         : OnTouchedAbsent(pfn, order, now);
  }
  // OnTouched, if the host has no fault; else false, with no effect. Needs no
  // time.
  bool OnTouchedResident(Pfn pfn, Order order) {
    // A granule that is not split is resident as a whole, or not at all.
    if (order == Order(0)) {
      if (!resident_.Test(pfn.value())) return false;
      if (tracks_use_) {
        in_use_count_ += PageCount(in_use_.SetOne(pfn.value()) ? 1 : 0);
      }
      return true;
    }
    if (!resident_.All(pfn.value(), order.pages().value())) return false;
    Use(pfn, order);
    return true;
  }
  // The host discarded `ranges` at `now`, as a report asked, each run of
  // adjacent ranges at once: they are not resident any more.
  void OnReported(std::span<const GpaRange> ranges, Nanoseconds now);
  // The host collapsed the granule of the page, as khugepaged does: if it was
  // split and a page of it is resident, all of it is, as one. Returns whether.
  bool OnCollapsed(Pfn pfn);

  // The VMM unplugged whole granules of memory: they are not resident, and need
  // reporting if they come back. REQUIRES: none of their pages is in use.
  void OnUnplugged(PfnRange pages);

  // True if the page was touched and not freed since. Of a ledger for many
  // threads, nothing is in use.
  bool InUse(Pfn pfn) const { return in_use_.Test(pfn.value()); }
  // The first page of `ranges` that is in use. None unless the guest reports
  // memory in use.
  std::optional<Pfn> FirstInUse(std::span<const GpaRange> ranges) const;
  // All pages in use.
  PageCount in_use_pages() const { return in_use_count_; }
  // Pages of the block that are resident.
  PageCount ResidentPages(Pfn pfn, Order order) const {
    return PageCount(resident_.Count(pfn.value(), order.pages().value()));
  }
  // All resident pages.
  PageCount resident_pages() const {
    return PageCount(resident_count_.load(std::memory_order_relaxed));
  }
  // What a discard of `run` would unmap.
  HostMappings MappedIn(PfnRange run) const;
  // Granules that a discard of `run` would split: zero to two.
  uint64_t SplitBy(PfnRange run) const;
  LedgerCounters counters() const;

 private:
  // Notes that the block is in use.
  void Use(Pfn pfn, Order order) {
    if (!tracks_use_) return;
    in_use_count_ += PageCount(in_use_.Set(pfn.value(), order.pages().value()));
  }
  // OnAllocated and OnTouched of blocks that are not resident, or in part.
  void OnAllocatedAbsent(Pfn pfn, Order order);
  HostMappings OnTouchedAbsent(Pfn pfn, Order order, Nanoseconds now);
  PfnRange GranuleOf(Pfn pfn) const;
  // The bit of the page's granule in split_.
  uint64_t NumberOf(Pfn pfn) const { return pfn.value() >> granule_.value(); }
  // The granules that lie within `run`; empty if none do.
  PfnRange Inside(PfnRange run) const;
  // The parts of granules at the ends of `run`, outside of those.
  std::array<PfnRange, 2> PartsOf(PfnRange run) const;
  bool AnyResident(PfnRange pages) const {
    return resident_.Any(pages.start.value(), pages.pages().value());
  }
  // True if the host maps the page's granule as one.
  bool IsWhole(Pfn pfn) const;
  bool IsSplit(Pfn pfn) const { return split_.Test(NumberOf(pfn)); }

  // Touches pages of one granule.
  void TouchIn(PfnRange pages, Nanoseconds now, HostMappings& faults);
  // Maps the pages that are not resident; of these, how many there are, and how
  // many were discarded less than kRefaultWindow ago.
  struct Mapped {
    uint64_t pages = 0;
    uint64_t refaults = 0;
  };
  Mapped Map(PfnRange pages, Nanoseconds now);
  void Unmap(PfnRange pages, Nanoseconds now);

  const Order granule_;
  const bool tracks_use_;
  // Of pages.
  AtomicBits in_use_;
  AtomicBits resident_;
  AtomicBits needed_;
  // Of granules of more than a page.
  AtomicBits split_;
  // The time of a page's last discard, in milliseconds, rounded down, plus one;
  // 0: never.
  ZeroedArray<uint32_t> discarded_ms_;

  PageCount in_use_count_;
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
