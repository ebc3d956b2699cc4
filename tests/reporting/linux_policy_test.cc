// The rules of Linux 5.7's reporting for requests, passes, zones and errors.
// Those for a free list are in linux_lists_test.cc.

#include "guestmm/reporting/linux_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tests/reporting/linux_testing.h"

namespace guestmm::linux_policy_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAreArray;

constexpr Pfn k16MiB = ToPfn(Gpa(16 * kMiB));
constexpr Pfn k4GiB = ToPfn(Gpa(4 * kGiB));

// Two zones of eight blocks.
WorldOptions TwoZones(size_t capacity) {
  WorldOptions options = LinuxOf(8, capacity);
  options.memory.push_back(BlocksFrom(k4GiB, 8, kSmall));
  return options;
}

TEST(LinuxRuleTest, DefaultsAreThoseOfLinux) {
  const LinuxPolicy policy({});
  EXPECT_EQ(policy.name(), "linux");
  EXPECT_EQ(policy.min_order(), Order(9));
  EXPECT_EQ(policy.capacity(), 32u);
  EXPECT_EQ(policy.delay(), seconds(2));
  EXPECT_THAT(policy.parameters(),
              ElementsAre(Pair("order", 9), Pair("delay_ms", 2000),
                          Pair("capacity", 32)));
}

TEST(LinuxOptionDeathTest, MustMakeSense) {
  EXPECT_DEATH(LinuxPolicy({.order = Order(11)}),
               "--order=11: must be 0 to 10");
  EXPECT_DEATH(LinuxPolicy({.delay = Nanoseconds(-1)}),
               "--delay=-0.000000001: must be");
  EXPECT_DEATH(LinuxPolicy({.capacity = 0}), "--capacity=0: must be");
}

// Requests
// ---------------------------------------------------------------------

TEST(LinuxRuleTest, AllThatIsFreeIsReportedTwoSecondsAfterEnabling) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  world.time.RunFor(seconds(2) - Nanoseconds(1));
  EXPECT_EQ(world.passes(), 0u);
  world.Settle();
  EXPECT_EQ(world.passes(), 1u);
  EXPECT_THAT(world.device->reported(), SizeIs(8));
}

TEST(LinuxRuleTest, APassThatWasDueBeforeEnablingComesWhenItWasDue) {
  WorldOptions options = LinuxOf(8, /*capacity=*/8);
  options.make_policy = [] {
    return std::make_unique<LinuxPolicy>(
        LinuxOptions{.order = kSmall, .capacity = 8},
        ResumedReporting{.next_pass = milliseconds(300)});
  };
  LinuxWorld world(options);
  world.time.RunFor(milliseconds(300) - Nanoseconds(1));
  EXPECT_EQ(world.passes(), 0u);
  world.Settle();
  EXPECT_EQ(world.passes(), 1u);
  EXPECT_THAT(world.device->reported(), SizeIs(8));
  // Later passes have the policy's own delay.
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);
  world.time.RunFor(seconds(2) - Nanoseconds(1));
  EXPECT_EQ(world.passes(), 1u);
  world.Settle();
  EXPECT_EQ(world.passes(), 2u);
}

TEST(LinuxRuleTest, OneThatWasAtRestWaitsForAFree) {
  WorldOptions options = LinuxOf(8, /*capacity=*/2);
  options.make_policy = [] {
    return std::make_unique<LinuxPolicy>(
        LinuxOptions{.order = kSmall, .capacity = 2}, ResumedReporting{});
  };
  LinuxWorld world(options);
  world.time.RunFor(seconds(10));
  EXPECT_EQ(world.passes(), 0u);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(4), kSmall);
  world.time.RunFor(seconds(2));
  EXPECT_EQ(world.passes(), 1u);
  EXPECT_THAT(world.device->reported(), Not(IsEmpty()));
}

TEST(LinuxRuleTest, AFreedBlockAsksForAPassTwoSecondsLater) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Settle();
  ASSERT_EQ(world.passes(), 1u);
  world.Free(blocks[0], kSmall);
  world.time.RunFor(seconds(1));
  world.Free(std::span(blocks).subspan(1, 3), kSmall);
  world.time.RunFor(seconds(1) - Nanoseconds(1));
  EXPECT_EQ(world.passes(), 1u);
  world.time.RunFor(Nanoseconds(1));
  EXPECT_EQ(world.passes(), 2u);
  world.Settle();
  EXPECT_EQ(world.passes(), 2u);
  EXPECT_THAT(world.device->reported(), SizeIs(4));
}

TEST(LinuxRuleTest, BelowItsOrderNothingAsks) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/1));
  const std::vector<Pfn> halves = world.TakeAll(Order(1));
  world.Settle();
  for (size_t i = 0; i < halves.size(); i += 2) world.Free(halves[i], Order(1));
  world.Settle();
  EXPECT_EQ(world.passes(), 1u);
  EXPECT_THAT(world.device->reports(), IsEmpty());
}

// __page_reporting_request, page_reporting_process.
TEST(LinuxRuleTest, OnlyARequestThatFindsItIdleSchedulesAPass) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  LinuxByHand linux_policy(world, 8);
  // Enabling requests a pass.
  EXPECT_FALSE(linux_policy.BlockFreed());
  EXPECT_EQ(linux_policy.NextPass(), seconds(2));
  ASSERT_THAT(linux_policy.Pass(), SizeIs(1));
  EXPECT_EQ(linux_policy.NextPass(), std::nullopt);
  EXPECT_TRUE(linux_policy.BlockFreed());
  EXPECT_FALSE(linux_policy.BlockFreed());
  // There is nothing to report: the pass ends at once.
  EXPECT_THAT(linux_policy.Pass(), IsEmpty());
  EXPECT_TRUE(linux_policy.BlockFreed());
}

TEST(LinuxRuleTest, ARequestDuringAPassIsForAnotherOne) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  LinuxByHand linux_policy(world, 8);
  ASSERT_THAT(linux_policy.Next(), SizeIs(8));
  EXPECT_FALSE(linux_policy.BlockFreed());
  EXPECT_FALSE(linux_policy.BlockFreed());
  linux_policy.Return();
  EXPECT_THAT(linux_policy.Next(), IsEmpty());
  EXPECT_EQ(linux_policy.NextPass(), seconds(2));
  // Still the same request.
  EXPECT_FALSE(linux_policy.BlockFreed());
  EXPECT_THAT(linux_policy.Pass(), IsEmpty());
  EXPECT_EQ(linux_policy.NextPass(), std::nullopt);
}

TEST(LinuxRuleTest, WhatIsFreedDuringAPassIsReportedTwoSecondsAfterIt) {
  WorldOptions options = LinuxOf(8, /*capacity=*/4);
  options.report_time = milliseconds(100);
  LinuxWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(5), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.Free(blocks[7], kSmall);
  while (world.device->outstanding()) world.time.RunFor(milliseconds(100));
  const uint64_t passes = world.passes();
  world.time.RunFor(seconds(2) - Nanoseconds(1));
  EXPECT_EQ(world.passes(), passes);
  world.time.RunFor(Nanoseconds(1));
  EXPECT_EQ(world.passes(), passes + 1);
  world.Settle();
  EXPECT_TRUE(world.IsReported(blocks[7]));
}

TEST(LinuxRuleTest, WithoutADelayARequestIsAPassAtOnce) {
  WorldOptions options = LinuxOf(8, /*capacity=*/2);
  options.make_policy = [] {
    return std::make_unique<LinuxPolicy>(
        LinuxOptions{.order = kSmall, .delay = Nanoseconds(0), .capacity = 2});
  };
  LinuxWorld world(options);
  world.Settle();
  EXPECT_LT(world.time.Now(), seconds(1));
  EXPECT_THAT(world.device->reported(), SizeIs(8));
}

// Zones
// ------------------------------------------------------------------------

// The low watermark, and more than a report's worth of blocks above it.
TEST(LinuxRuleTest, AZoneIsLookedAtAboveItsLowWatermarkAndAReport) {
  for (const auto& [low, reported] :
       std::vector<std::pair<uint64_t, size_t>>{{24, 8}, {25, 0}}) {
    LinuxWorld world(LinuxOf(8, /*capacity=*/2));  // 33 pages; a report is 8
    world.zone().SetWatermarks(
        {.min = PageCount(0), .low = PageCount(low), .high = PageCount(low)});
    world.Settle();
    EXPECT_THAT(world.device->reported(), SizeIs(reported)) << low;
  }
}

TEST(LinuxRuleTest, ASkippedZoneWaitsForTheNextRequest) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(1), kSmall);
  world.Settle();
  EXPECT_EQ(world.passes(), 1u);
  EXPECT_THAT(world.device->reports(), IsEmpty());
  EXPECT_TRUE(world.reporter->AtRest());
  world.Free(std::span(blocks).subspan(1, 2), kSmall);
  world.Settle();
  EXPECT_EQ(world.passes(), 2u);
  EXPECT_THAT(world.device->reported(), SizeIs(3));
}

TEST(LinuxRuleTest, ASkippedZoneDoesNotKeepOthersFromBeingLookedAt) {
  LinuxWorld world(TwoZones(/*capacity=*/8));
  world.SetMinWatermark(PageCount(1));  // of the first
  world.Settle();
  ASSERT_THAT(world.device->reports(), ElementsAre(SizeIs(8)));
  for (const GpaRange& range : world.device->reported()) {
    EXPECT_GE(range.gpa, Gpa(4 * kGiB));
  }
}

TEST(LinuxRuleTest, AReportNeverSpansZones) {
  LinuxWorld world(TwoZones(/*capacity=*/6));
  world.Settle();
  const auto reports = world.device->reports();
  ASSERT_THAT(reports, ElementsAre(SizeIs(6), SizeIs(2), SizeIs(6), SizeIs(2)));
  for (size_t i = 0; i < reports.size(); ++i) {
    for (const GpaRange& range : reports[i]) {
      EXPECT_EQ(range.gpa >= Gpa(4 * kGiB), i >= 2) << range;
    }
  }
}

// 32 << 9 pages of a zone are left alone.
TEST(LinuxRuleTest, AtItsRealSizeItNeedsSixtyFourMegabytesInAZone) {
  for (const uint64_t blocks : {31, 32}) {
    LinuxWorld world(
        {.memory = {BlocksFrom(k16MiB, blocks, kPageblockOrder)},
         .make_policy =
             [] { return std::make_unique<LinuxPolicy>(LinuxOptions{}); },
         .max_order = kPageblockOrder});
    world.SetMinWatermark(PageCount(0));
    world.Settle();
    EXPECT_THAT(world.device->reported(), SizeIs(blocks == 32 ? 32 : 0));
  }
}

// Errors
// -----------------------------------------------------------------------

// Neither the rest of the zone nor the next one is reported, until the next
// request.
TEST(LinuxRuleTest, AReportThatIsRefusedEndsThePassForAllZones) {
  LinuxWorld world(TwoZones(/*capacity=*/4));
  bool full = true;
  int asked = 0;
  world.device->set_answer([&](std::span<const GpaRange>) {
    ++asked;
    return full && asked < 10 ? absl::ResourceExhaustedError("full")
                              : absl::OkStatus();
  });
  const std::vector<Pfn> before = world.List(kSmall);
  world.Settle();
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(world.passes(), 1u);
  const std::vector<Pfn> after = world.List(kSmall);
  EXPECT_THAT(after, UnorderedElementsAreArray(before));
  for (const Pfn pfn : after) EXPECT_FALSE(world.IsReported(pfn)) << pfn;

  full = false;
  world.Free(world.allocator->Allocate(0, kSmall).value(), kSmall);
  world.Settle();
  EXPECT_EQ(world.passes(), 2u);
  EXPECT_THAT(world.device->reported(), SizeIs(16));
}

TEST(LinuxRuleTest, SoDoesOneThatEndsInAReset) {
  WorldOptions options = TwoZones(/*capacity=*/4);
  options.report_time = std::nullopt;
  LinuxWorld world(options);
  world.Settle();
  world.device->End();
  world.Settle();
  ASSERT_TRUE(world.device->outstanding());  // the zone's last report
  const std::vector<GpaRange> lost = world.device->in_flight();
  world.device->End(absl::UnavailableError("reset"));
  world.Settle();
  EXPECT_FALSE(world.device->outstanding());
  EXPECT_EQ(world.reports(), 2u);
  for (const GpaRange& range : lost) {
    EXPECT_FALSE(world.IsReported(ToPfn(range.gpa))) << range;
  }
}

// Disabling
// --------------------------------------------------------------------

TEST(LinuxRuleTest, MarksOutlastTheDriver) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  world.Settle();
  ASSERT_THAT(world.device->reported(), SizeIs(8));
  EXPECT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  const Pfn used = world.allocator->Allocate(0, kSmall).value();
  world.Free(used, kSmall);  // without notification
  world.Settle();
  EXPECT_EQ(world.reporter->Enable(*world.device), absl::OkStatus());
  world.Settle();
  EXPECT_THAT(world.device->last_report(), ElementsAre(RangeOf(used, kSmall)));
  EXPECT_THAT(world.device->reported(), SizeIs(9));
}

TEST(LinuxRuleTest, DisablingForgetsThePass) {
  WorldOptions options = TwoZones(/*capacity=*/4);
  options.report_time = milliseconds(1);
  LinuxWorld world(options);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  EXPECT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  world.Settle();
  EXPECT_EQ(world.reports(), 1u);
  EXPECT_EQ(world.reporter->Enable(*world.device), absl::OkStatus());
  world.time.RunFor(seconds(1));
  EXPECT_EQ(world.reports(), 1u);
  // From the start: the rest of the first zone, then the second.
  world.Settle();
  EXPECT_THAT(world.device->reports(),
              ElementsAre(SizeIs(4), SizeIs(4), SizeIs(4), SizeIs(4)));
  EXPECT_EQ(world.device->reported().size(), 16u);
}

// Hotplug
// -----------------------------------------------------

TEST(LinuxRuleTest, MemoryThatComesIsReported) {
  WorldOptions options = LinuxOf(8, /*capacity=*/2);
  options.section_order = Order(4);
  options.hotplug_end = Pfn(64);
  LinuxWorld world(options);
  world.Settle();
  ASSERT_THAT(world.device->reported(), SizeIs(8));
  world.AddOnline({Pfn(48), Pfn(64)}, ZoneType::kNormal);
  world.Settle();
  EXPECT_THAT(world.device->reported(), SizeIs(12));
  EXPECT_TRUE(world.IsReported(Pfn(48)));
}

// While a report is in flight, the memory of its list is removed, and more.
TEST(LinuxRuleTest, MemoryThatGoesDuringAPassIsNoLongerLookedAt) {
  WorldOptions options = LinuxOf(8, /*capacity=*/2);
  options.section_order = Order(4);
  LinuxWorld world(options);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  const PfnRange first_section = {Pfn(0), Pfn(16)};
  world.OfflineRemove(first_section);
  world.Settle();
  const PfnRange rest = {Pfn(16), Pfn(33)};
  for (const Pfn pfn : world.List(kSmall)) {
    EXPECT_TRUE(rest.Contains(pfn)) << pfn;
    EXPECT_TRUE(world.IsReported(pfn)) << pfn;
  }
}

}  // namespace
}  // namespace guestmm::linux_policy_test
