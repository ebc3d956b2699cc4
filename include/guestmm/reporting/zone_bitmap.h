#ifndef GUESTMM_REPORTING_ZONE_BITMAP_H_
#define GUESTMM_REPORTING_ZONE_BITMAP_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/units.h"

namespace guestmm {

// One bit for each aligned block of `granularity` in a run of pages, and how
// many are set (v12 patch 1/2, struct zone: bitmap, base_pfn, nbits,
// free_pages).
//
//   pfns    base        base + 2^granularity
//   bits  [  0  |   1   |   2   | ... ]
//
// The base is aligned down, so that a bit and the pfn it stands for agree.
//
// Bits change under the zone's lock; they may be searched without it.
class ZoneBitmap {
 public:
  ZoneBitmap(PfnRange span, Order granularity);

  // Sets the bit of the block that holds `pfn`. No effect outside the span.
  void Set(Pfn pfn);
  // Clears the bit of the block that starts at `pfn`. REQUIRES: it is set.
  void Clear(Pfn pfn);
  bool Test(Pfn pfn) const;

  // The start of the first block at or after `from` whose bit is set.
  std::optional<Pfn> FindNext(Pfn from) const;

  // Set bits (v12's free_pages, which counts bits and not pages).
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }

  // R1 of docs/invariants.md: the counter equals the set bits.
  absl::Status CheckInvariants() const;

 private:
  static constexpr int kBitsPerWord = 64;

  // The bit that stands for `pfn`; none outside the span.
  std::optional<uint64_t> BitOf(Pfn pfn) const;

  const Order granularity_;
  const Pfn base_;
  const uint64_t bits_;
  std::vector<std::atomic<uint64_t>> words_;
  std::atomic<uint64_t> count_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ZONE_BITMAP_H_
