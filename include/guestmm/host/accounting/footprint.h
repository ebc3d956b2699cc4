#ifndef GUESTMM_HOST_ACCOUNTING_FOOTPRINT_H_
#define GUESTMM_HOST_ACCOUNTING_FOOTPRINT_H_

#include <cstdint>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// Memory integrated over time. The sum is an integer of pages times
// microseconds, wide enough that no run overflows it (64 bits last 19 hours
// for a guest of 1 TiB), so the order of additions does not change it.
//
//   FootprintIntegral resident(clock.Now());
//   ... before each change, and once at the end:
//   resident.Add(ledger.resident_pages(), clock.Now());
class FootprintIntegral {
 public:
  // Nothing is held before `start`.
  explicit FootprintIntegral(Nanoseconds start = Nanoseconds(0))
      : until_us_(Microseconds(start)) {}

  // `pages` were held from the last call (or the start) until `until`, in whole
  // microseconds. REQUIRES: `until` is not earlier than the last one.
  void Add(PageCount pages, Nanoseconds until) {
    const uint64_t until_us = Microseconds(until);
    sum_ += static_cast<Sum>(pages.value()) * (until_us - until_us_);
    until_us_ = until_us;
  }

  // Rounded where it exceeds 2^53.
  double page_microseconds() const { return static_cast<double>(sum_); }
  // In GiB times minutes.
  double gib_minutes() const {
    constexpr uint64_t kPagesPerGib = kGiB / kPageSize;
    return page_microseconds() / static_cast<double>(kPagesPerGib) / 60e6;
  }

  bool operator==(const FootprintIntegral&) const = default;

 private:
  __extension__ using Sum = unsigned __int128;

  static uint64_t Microseconds(Nanoseconds time) {
    return static_cast<uint64_t>(time.count()) / 1000;
  }

  uint64_t until_us_;
  Sum sum_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_FOOTPRINT_H_
