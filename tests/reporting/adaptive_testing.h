#ifndef GUESTMM_TESTS_REPORTING_ADAPTIVE_TESTING_H_
#define GUESTMM_TESTS_REPORTING_ADAPTIVE_TESTING_H_

// Small worlds with the policy "adaptive", and a host that tracks for each page
// whether it has the page, and so whether a report of it is needed.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/reporter.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/reporting_world.h"

namespace guestmm {

// A world of 32 regions of 8 pages, which are blocks of at most 16.
inline WorldOptions AdaptiveOf(const AdaptiveOptions& policy = {
                                   .order = Order(3),
                                   .floor = Order(1),
                                   .delay = std::chrono::milliseconds(500)}) {
  return {.memory = {BlocksFrom(Pfn(0), 32, Order(3))},
          .make_policy =
              [policy] { return std::make_unique<AdaptivePolicy>(policy); },
          .max_order = Order(4),
          .report_time = std::chrono::microseconds(100)};
}

struct AdaptiveWorld : ReportingWorld {
  // On a host that maps memory in granules; all of it is mapped so initially.
  explicit AdaptiveWorld(const WorldOptions& options = AdaptiveOf(),
                         Order its_granule = Order(0))
      : ReportingWorld(options),
        make_policy(options.make_policy),
        granule(its_granule),
        has(allocator->hotplug_end().AlignUp(granule).value(), false),
        split(has.size(), false) {}

  // Loads a new driver and policy, which know nothing of the previous ones.
  void Enable() {
    reporter = std::make_unique<Reporter>(*allocator, time, make_policy());
    EXPECT_EQ(reporter->Enable(*device), absl::OkStatus());
  }
  void Disable() {
    EXPECT_EQ(reporter->Disable(*device), absl::OkStatus());
    reporter.reset();
    NoteReports();
  }

  std::optional<Pfn> Allocate(Order order, Gfp gfp = kGfpUser) {
    NoteReports();
    const std::optional<Pfn> pfn = allocator->Allocate(0, order, gfp);
    if (pfn) Touch(*pfn, order);
    return pfn;
  }
  std::vector<Pfn> TakeAll(Order order) {
    NoteReports();
    std::vector<Pfn> blocks = ReportingWorld::TakeAll(order);
    for (const Pfn pfn : blocks) Touch(pfn, order);
    return blocks;
  }
  // The host no longer has the block, nor the rest of a granule that is not
  // split and that it had all of.
  void Touch(Pfn pfn, Order order) {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      const Pfn page = pfn + PageCount(i);
      if (HasAll(page) && !split[page.AlignDown(granule).value()]) {
        for (uint64_t j = 0; j < granule.pages().value(); ++j) {
          has[page.AlignDown(granule).value() + j] = false;
        }
      }
      has[page.value()] = false;
    }
  }
  // True if the host has all of the page's granule.
  bool HasAll(Pfn page) const {
    const auto first =
        has.begin() + static_cast<ptrdiff_t>(page.AlignDown(granule).value());
    return std::all_of(first,
                       first + static_cast<ptrdiff_t>(granule.pages().value()),
                       [](bool page_has) { return page_has; });
  }
  void Run(Nanoseconds duration) {
    time.RunFor(duration);
    NoteReports();
  }

  // Pages in acknowledged reports; and those of them that the host did not
  // have.
  uint64_t reported = 0;
  uint64_t needed = 0;

  // Ends the oldest outstanding report, if there is one, as a reset does.
  void FailReport() {
    if (!device->outstanding()) return;
    NoteReports();
    failed.insert(device->reports().size() - device->outstanding_reports());
    device->End(absl::UnavailableError("reset"));
  }

  // Accounts for the reports since the last call.
  void NoteReports() {
    const std::vector<FakeDevice::Ranges> reports = device->reports();
    const size_t ended = reports.size() - device->outstanding_reports();
    for (; noted < ended; ++noted) {
      if (failed.contains(noted)) continue;
      for (const GpaRange& range : reports[noted]) {
        for (uint64_t i = 0; i < range.bytes / kPageSize; ++i) {
          const uint64_t page = ToPfn(range.gpa).value() + i;
          ++reported;
          needed += has[page] ? 0 : 1;
          has[page] = true;
          // These granules are smaller than a pageblock.
          split[Pfn(page).AlignDown(granule).value()] = !HasAll(Pfn(page));
        }
      }
    }
  }

  // A page of a free block of at least `order` that the host does not have, in
  // a zone above its low watermark; none if there is none.
  std::optional<Pfn> FirstMissing(Order order) {
    NoteReports();
    for (const std::unique_ptr<Zone>& zone : allocator->zones()) {
      if (zone->free_pages() <= zone->watermarks().low) continue;
      LockHolder hold(zone->lock());
      for (int o = order.value(); o <= zone->max_order().value(); ++o) {
        for (int type = 0; type < kMigrateTypes; ++type) {
          std::optional<Pfn> missing;
          zone->ForEachFreeBlock(
              Order(o), static_cast<MigrateType>(type), [&](Pfn pfn) {
                for (uint64_t i = 0; i < Order(o).pages().value(); ++i) {
                  if (!has[pfn.value() + i]) missing = pfn + PageCount(i);
                }
              });
          if (missing) return missing;
        }
      }
    }
    return std::nullopt;
  }

  const std::function<std::unique_ptr<ReportingPolicy>()> make_policy;
  const Order granule;
  // For each page: whether the host has it; of a granule's first page: whether
  // the host has taken back a part of the granule.
  std::vector<bool> has;
  std::vector<bool> split;
  size_t noted = 0;
  // The indices of the reports that ended without an acknowledgement.
  std::set<size_t> failed;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_REPORTING_ADAPTIVE_TESTING_H_
