#ifndef GUESTMM_REPORTING_V12_POLICY_H_
#define GUESTMM_REPORTING_V12_POLICY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/zone_bitmap.h"

namespace GUESTMM_EXPORT guestmm {

struct V12Options {
  // PAGE_REPORTING_MIN_ORDER: the smallest block that is marked, and the size
  // of the memory that each bit stands for.
  Order order = kPageblockOrder;
  // PAGE_REPORTING_MAX_PAGES: the number of marked blocks in a zone that start
  // a pass.
  uint64_t threshold = 16;
  // PAGE_REPORTING_MAX_PAGES, too: the blocks in one report.
  size_t capacity = 16;
  // True to track all memory that is added while reporting is enabled
  // ("v12-hotplug"). False as posted: only memory within the span that its zone
  // had when reporting was enabled.
  bool hotplug = false;
};

// order, threshold, capacity; `hotplug` follows from the policy's name.
const Fields<V12Options>& V12Fields();

// The policy of "[RFC][PATCH v12 0/2] mm: Support for page reporting" (Lal,
// August 2019), losses included: docs/policies.md lists which of its behaviours
// are kept and which are mended as defects.
//
// A freed block of at least `order` sets a bit. When a zone has `threshold`
// bits set, a pass scans the bits of each zone that has as many, in ascending
// order. It clears each bit, and reports the block if it is still free and can
// be isolated.
class V12Policy final : public ReportingPolicy {
 public:
  // REQUIRES: V12Fields().Check(options) (CHECKed).
  explicit V12Policy(const V12Options& options);

  std::string_view name() const override {
    return options_.hotplug ? "v12-hotplug" : "v12";
  }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override;
  Order min_order() const override { return options_.order; }
  size_t capacity() const override { return options_.capacity; }

  absl::Status Enable(const ReportingEnvironment& environment) override;
  void Disable() override;
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void MemoryOnline(ReportableZone& zone, PfnRange range) override;
  void MemoryOffline(ReportableZone& zone, PfnRange range) override
      ABSL_LOCKS_EXCLUDED(zone.lock());
  bool NextBatch(Scatterlist& list) override;
  void ReturnBatch(Scatterlist& list, bool acknowledged) override;
  absl::Status CheckInvariants() const override;

  // A zone's bits. REQUIRES: enabled.
  const ZoneBitmap& bitmap(const Zone& zone) const {
    return *zones_[static_cast<size_t>(zone.index())].bitmap;
  }

 private:
  struct TrackedZone {
    ReportableZone* zone;
    std::unique_ptr<ZoneBitmap> bitmap;
  };

  ReportableZone& ZoneOf(const IsolatedBlock& block) {
    return *zones_[static_cast<size_t>(block.zone().index())].zone;
  }
  ZoneBitmap& BitmapOf(const ReportableZone& zone) {
    return *zones_[static_cast<size_t>(zone.index())].bitmap;
  }
  // Clears the bit at `pfn`, and isolates the block there if it is free, large
  // enough, and not refused.
  std::optional<IsolatedBlock> Take(TrackedZone& tracked, Pfn pfn);

  const V12Options options_;
  std::vector<TrackedZone> zones_;
  // v12's refcnt: a pass is requested or running. No other is requested until
  // it ends.
  std::atomic<bool> requested_{false};
  // The position of the pass: a zone, and the pfn to continue from, unset until
  // the zone's threshold is checked.
  size_t at_zone_ = 0;
  std::optional<Pfn> cursor_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_V12_POLICY_H_
