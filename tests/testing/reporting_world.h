#ifndef GUESTMM_TESTS_TESTING_REPORTING_WORLD_H_
#define GUESTMM_TESTS_TESTING_REPORTING_WORLD_H_

// A small allocator that reports to a FakeDevice with the v12 policy, or
// another, in virtual time. Memory may be added and removed.
//
//   ReportingWorld world({.memory = {BlocksFrom(Pfn(0), 4, Order(2))},
//                         .v12 = {.order = Order(2), .threshold = 2}});
//   const std::vector<Pfn> blocks = world.TakeAll(Order(2));
//   world.Free(blocks[0], Order(2));
//   world.Settle();

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/reporting/zone_lock_guard.h"
#include "tests/testing/fake_device.h"

namespace guestmm {

// Memory for `count` blocks, and one page more, which cannot be part of a block
// and stays free. Without it the last free block of a zone could not be
// isolated, even with a min watermark of zero.
inline MemoryRange BlocksFrom(Pfn start, uint64_t count, Order order) {
  return {start, start + order.pages() * count + PageCount(1)};
}

inline GpaRange RangeOf(Pfn pfn, Order order) {
  return {.gpa = ToGpa(pfn), .bytes = order.bytes()};
}

// S1 of docs/invariants.md, for the guest's part: all memory that the host may
// discard is isolated, and each range is in one block.
inline void ExpectIsolated(const PageAllocator& allocator,
                           std::span<const GpaRange> ranges) {
  for (const GpaRange& range : ranges) {
    const Pfn start = ToPfn(range.gpa);
    int order = 0;
    while (allocator.pages().Get(start.AlignDown(Order(order))).state ==
           PageState::kTail) {
      ASSERT_LE(++order, kMaxOrder.value()) << range;
    }
    const Pfn head = start.AlignDown(Order(order));
    const PageInfo info = allocator.pages().Get(head);
    EXPECT_EQ(info.state, PageState::kIsolated) << range;
    EXPECT_LE(ToPfn(range.gpa + range.bytes), head + info.order.pages())
        << range;
    for (uint64_t i = 1; i < info.order.pages().value(); ++i) {
      ASSERT_EQ(allocator.pages().Get(head + PageCount(i)).state,
                PageState::kTail)
          << range << ", page " << i;
    }
  }
}

inline PageCount CountPages(std::span<const GpaRange> ranges) {
  uint64_t bytes = 0;
  for (const GpaRange& range : ranges) bytes += range.bytes;
  return PageCount(bytes / kPageSize);
}

// Runs a test's function just before a policy acquires a zone's lock, where
// another thread may get ahead of it.
class LockHook final : public LockHoldObserver {
 public:
  std::function<void(const Zone&)> on_lock = [](const Zone&) {};

  void OnLock(const Zone& zone) override { on_lock(zone); }
  void OnUnlock(const Zone&, const ZoneWork&) override {}
};

struct WorldOptions {
  std::vector<MemoryRange> memory;
  V12Options v12 = {};
  // Unset: V12Policy of `v12`.
  std::function<std::unique_ptr<ReportingPolicy>()> make_policy = {};
  Order max_order = kMaxOrder;
  // Unset: max_order.
  std::optional<Order> pageblock_order = {};
  Order section_order = kSectionOrder;
  std::optional<Pfn> hotplug_end = {};
  PlacementOptions placement = {};
  int cpus = 1;
  // By default, freed blocks reach their zone at once.
  PerCpuLimits per_cpu_limits = {.batch = 1, .high = 1};
  uint64_t seed = 1;
  // How long the device takes for a report; unset: until the test ends it.
  std::optional<Nanoseconds> report_time = Nanoseconds(1000);
  // Must outlive the world. Null: none.
  LockHoldObserver* holds = nullptr;
};

// Watermarks are zero, and reporting is enabled.
struct ReportingWorld {
  explicit ReportingWorld(const WorldOptions& options)
      : time(options.seed),
        allocator(
            PageAllocator::Create({.memory = options.memory,
                                   .hotplug_end = options.hotplug_end,
                                   .cpus = options.cpus,
                                   .max_order = options.max_order,
                                   .pageblock_order = options.pageblock_order,
                                   .section_order = options.section_order,
                                   .min_free_kbytes = 0,
                                   .per_cpu_limits = options.per_cpu_limits,
                                   .placement = options.placement})
                .value()),
        device(options.report_time
                   ? std::make_unique<FakeDevice>(time, *options.report_time)
                   : std::make_unique<FakeDevice>()),
        reporter(std::make_unique<Reporter>(
            *allocator, time,
            options.make_policy ? options.make_policy()
                                : std::make_unique<V12Policy>(options.v12),
            options.holds)),
        first_zone(allocator->ZoneOf(options.memory.front().start).type()) {
    device->set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*allocator, ranges);
    });
    device->set_max_reports(reporter->policy().reports());
    EXPECT_EQ(reporter->Enable(*device), absl::OkStatus());
  }
  ~ReportingWorld() {
    if (device->outstanding()) device->End();
  }

  // Allocates all blocks of `order`, including a zone's reserves; ascending.
  std::vector<Pfn> TakeAll(Order order) {
    Gfp gfp = kGfpUser;
    gfp.reserves = Reserves::kAll;
    std::vector<Pfn> blocks;
    while (const std::optional<Pfn> pfn = allocator->Allocate(0, order, gfp)) {
      blocks.push_back(*pfn);
    }
    std::sort(blocks.begin(), blocks.end());
    return blocks;
  }
  void Free(Pfn pfn, Order order) { allocator->Free(0, pfn, order); }
  void Free(std::span<const Pfn> blocks, Order order) {
    for (const Pfn pfn : blocks) Free(pfn, order);
  }

  void SetMinWatermark(PageCount min) {
    zone().SetWatermarks({.min = min, .low = min, .high = min});
  }

  // The zone of the first memory, or of the given type.
  Zone& zone() { return zone(first_zone); }
  Zone& zone(ZoneType type) { return allocator->zone(/*node=*/0, type); }
  // REQUIRES for these: the policy is v12.
  const ZoneBitmap& bitmap() { return bitmap(first_zone); }
  const ZoneBitmap& bitmap(ZoneType type) {
    return static_cast<const V12Policy&>(reporter->policy()).bitmap(zone(type));
  }
  uint64_t marked() { return marked(first_zone); }
  uint64_t marked(ZoneType type) { return bitmap(type).count(); }

  // Hotplugs memory, which is free at once.
  void AddOnline(PfnRange range, ZoneType type) {
    EXPECT_EQ(hotplug.Add(range, /*node=*/0), absl::OkStatus());
    EXPECT_EQ(hotplug.Online(range, type), absl::OkStatus());
  }
  void OfflineRemove(PfnRange range) {
    EXPECT_EQ(hotplug.Offline(range), absl::OkStatus());
    EXPECT_EQ(hotplug.Remove(range), absl::OkStatus());
  }

  // Checks P, Z and R of docs/invariants.md.
  void ExpectInvariants() {
    EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(reporter->policy().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(allocator->Counts().isolated, reporter->in_flight_pages());
    if (device->outstanding()) {
      EXPECT_EQ(CountPages(device->in_flight()), reporter->in_flight_pages());
    }
  }

  // Runs until no event is left.
  void Settle() {
    time.RunUntilIdle();
    EXPECT_TRUE(device->outstanding() || reporter->AtRest());
    EXPECT_EQ(allocator->Counts().isolated, CountPages(device->in_flight()));
    ExpectInvariants();
  }

  VirtualTime time;
  std::unique_ptr<PageAllocator> allocator;
  std::unique_ptr<FakeDevice> device;
  std::unique_ptr<Reporter> reporter;
  MemoryHotplug hotplug{*allocator, /*ram=*/nullptr, /*reporting=*/&time};
  const ZoneType first_zone;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_REPORTING_WORLD_H_
