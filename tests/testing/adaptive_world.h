#ifndef GUESTMM_TESTS_TESTING_ADAPTIVE_WORLD_H_
#define GUESTMM_TESTS_TESTING_ADAPTIVE_WORLD_H_

// A small allocator that reports to a FakeDevice with the adaptive policy, in
// virtual time, and a host that tracks for each page whether it has the page,
// and so whether a report of it is needed.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/reporter.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/reporting_world.h"

namespace guestmm {

struct AdaptiveWorldOptions {
  // One page more than the blocks have: without it the last free block could
  // not be isolated, even with a min watermark of zero.
  MemoryMap memory = {{Pfn(0), Pfn(257)}};
  AdaptiveOptions policy = {.order = Order(3),
                            .floor = Order(1),
                            .delay = std::chrono::milliseconds(500)};
  Order max_order = Order(4);
  Order section_order = kSectionOrder;
  std::optional<Pfn> hotplug_end = {};
  PerCpuLimits per_cpu_limits = {.batch = 1, .high = 0};
  uint64_t seed = 1;
};

struct AdaptiveWorld {
  explicit AdaptiveWorld(const AdaptiveWorldOptions& world = {})
      : options(world),
        time(options.seed),
        allocator(
            PageAllocator::Create({.memory = options.memory,
                                   .hotplug_end = options.hotplug_end,
                                   .max_order = options.max_order,
                                   .section_order = options.section_order,
                                   .min_free_kbytes = 0,
                                   .per_cpu_limits = options.per_cpu_limits})
                .value()),
        device(time, std::chrono::microseconds(100)),
        has(allocator->hotplug_end().value(), false) {
    device.set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*allocator, ranges);
    });
    Enable();
  }
  ~AdaptiveWorld() {
    if (reporter != nullptr && device.outstanding()) device.End();
  }

  // Loads a new driver and policy, which know nothing of the previous ones.
  void Enable() {
    auto made = std::make_unique<AdaptivePolicy>(options.policy);
    policy = made.get();
    reporter = std::make_unique<Reporter>(*allocator, time, std::move(made));
    EXPECT_EQ(reporter->Enable(device), absl::OkStatus());
  }
  void Disable() {
    EXPECT_EQ(reporter->Disable(device), absl::OkStatus());
    reporter.reset();
    policy = nullptr;
    NoteReports();
  }

  std::optional<Pfn> Allocate(Order order, Gfp gfp = kGfpUser) {
    NoteReports();
    const std::optional<Pfn> pfn = allocator->Allocate(0, order, gfp);
    if (!pfn) return pfn;
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      has[pfn->value() + i] = false;
    }
    return pfn;
  }
  // Allocates all blocks of `order`; ascending.
  std::vector<Pfn> TakeAll(Order order) {
    Gfp gfp = kGfpUser;
    gfp.reserves = Reserves::kAll;
    std::vector<Pfn> blocks;
    while (const std::optional<Pfn> pfn = Allocate(order, gfp)) {
      blocks.push_back(*pfn);
    }
    std::sort(blocks.begin(), blocks.end());
    return blocks;
  }
  void Free(Pfn pfn, Order order) { allocator->Free(0, pfn, order); }
  void Free(std::span<const Pfn> blocks, Order order) {
    for (const Pfn pfn : blocks) Free(pfn, order);
  }
  void Run(Nanoseconds duration) {
    time.RunFor(duration);
    NoteReports();
  }

  // Pages in acknowledged reports; and those of them that the host did not
  // have.
  uint64_t reported = 0;
  uint64_t needed = 0;

  // Ends the outstanding report, if there is one, as a reset does.
  void FailReport() {
    if (!device.outstanding()) return;
    NoteReports();
    failed.insert(device.reports().size() - 1);
    device.End(absl::UnavailableError("reset"));
  }

  // Accounts for the reports since the last call.
  void NoteReports() {
    const std::vector<FakeDevice::Ranges> reports = device.reports();
    for (; noted < reports.size() - (device.outstanding() ? 1 : 0); ++noted) {
      if (failed.contains(noted)) continue;
      for (const GpaRange& range : reports[noted]) {
        for (uint64_t i = 0; i < range.bytes / kPageSize; ++i) {
          const uint64_t page = ToPfn(range.gpa).value() + i;
          ++reported;
          needed += has[page] ? 0 : 1;
          has[page] = true;
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

  void ExpectInvariants() {
    ASSERT_EQ(allocator->CheckInvariants(), absl::OkStatus());
    if (policy != nullptr) {
      ASSERT_EQ(policy->CheckInvariants(), absl::OkStatus());
      ASSERT_EQ(allocator->Counts().isolated, reporter->in_flight_pages());
    }
  }

  const AdaptiveWorldOptions options;
  VirtualTime time;
  std::unique_ptr<PageAllocator> allocator;
  FakeDevice device;
  std::unique_ptr<Reporter> reporter;
  AdaptivePolicy* policy = nullptr;
  // For each page: whether the host has it.
  std::vector<bool> has;
  size_t noted = 0;
  // The indices of the reports that ended without an acknowledgement.
  std::set<size_t> failed;
  MemoryHotplug hotplug{*allocator, /*ram=*/nullptr, /*reporting=*/&time};
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_ADAPTIVE_WORLD_H_
