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
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/zone_bitmap.h"

namespace guestmm {

struct V12Options {
  // PAGE_REPORTING_MIN_ORDER: the smallest block that is marked, and the size
  // that one bit stands for.
  Order order = kPageblockOrder;
  // PAGE_REPORTING_MAX_PAGES: marked blocks in a zone that make a pass worth
  // it.
  uint64_t threshold = 16;
  // The same, as the blocks in one report.
  size_t capacity = 16;
  // Whether memory that is added while reporting is enabled is tracked wherever
  // it lies ("v12-hotplug"), or, as posted, only within the span that its zone
  // had when reporting was enabled.
  bool hotplug = false;
};

// order, threshold, capacity; `hotplug` follows from the policy's name.
const Fields<V12Options>& V12Fields();

// The policy of "[RFC][PATCH v12 0/2] mm: Support for page reporting" (Lal,
// August 2019), losses included: docs/policies.md tells which of its behaviours
// are kept and which were mended as defects.
//
// A freed block of at least `order` sets a bit. Once a zone has `threshold`
// bits set, one pass goes over the bits of each zone that has as many,
// ascending: a bit is cleared whatever is found there; a block that is still
// free, and may be isolated, is reported.
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
  bool BlockFreed(Zone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void MemoryOnline(Zone& zone, PfnRange range) override;
  void MemoryOffline(Zone& zone, PfnRange range) override
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
    Zone* zone;
    std::unique_ptr<ZoneBitmap> bitmap;
  };

  ZoneBitmap& BitmapOf(const Zone& zone) {
    return *zones_[static_cast<size_t>(zone.index())].bitmap;
  }
  // Looks at the block at `pfn`, which was found marked, clears its mark, and
  // isolates it if it can be reported.
  std::optional<IsolatedBlock> Take(TrackedZone& tracked, Pfn pfn);

  const V12Options options_;
  std::vector<TrackedZone> zones_;
  LockHoldObserver* holds_ = nullptr;
  // v12's refcnt: a pass is asked for or under way, and no other is until it
  // ends.
  std::atomic<bool> requested_{false};
  // Where the pass stands: a zone, and the pfn to go on from, none before the
  // zone's threshold was looked at.
  size_t at_zone_ = 0;
  std::optional<Pfn> cursor_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_V12_POLICY_H_
