// v12-hotplug: v12 with memory that is added and removed while it reports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/reporting_world.h"
#include "tests/testing/watched_policy.h"

namespace guestmm::v12_hotplug_test {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Blocks of 4 pages that cannot merge; 4 of them are a section.
constexpr Order kSmall(2);
constexpr Order kSection(4);

// Page `page` of ZONE_NORMAL.
constexpr Pfn At(uint64_t page) {
  return ToPfn(Gpa(4 * kGiB)) + PageCount(page);
}
constexpr PfnRange Section(uint64_t n) {
  return {At(16 * n), At(16 * (n + 1))};
}
std::vector<GpaRange> BlocksOf(PfnRange range) {
  std::vector<GpaRange> blocks;
  for (Pfn pfn = range.start; pfn < range.end; pfn += kSmall.pages()) {
    blocks.push_back(RangeOf(pfn, kSmall));
  }
  return blocks;
}

// Sections 2 and 3 are present, and a page; others may be added. Four marks
// start a pass and fill a report.
WorldOptions Growing() {
  return {
      .memory = {BlocksFrom(At(32), 8, kSmall)},
      .v12 = {.order = kSmall, .threshold = 4, .capacity = 4, .hotplug = true},
      .max_order = kSmall,
      .section_order = kSection,
      .hotplug_end = At(256)};
}

// The same, with a threshold that is not reached.
WorldOptions Marking() {
  WorldOptions options = Growing();
  options.v12.threshold = 1000;
  return options;
}

TEST(V12HotplugTest, HasANameOfItsOwnAndV12sDefaults) {
  const V12Policy policy({.hotplug = true});
  EXPECT_EQ(policy.name(), "v12-hotplug");
  EXPECT_EQ(policy.parameters(), V12Policy({}).parameters());
}

TEST(V12HotplugTest, AZoneThatGrowsIsTracked) {
  for (const uint64_t section : {0, 5, 15}) {
    SCOPED_TRACE(section);
    ReportingWorld world(Growing());
    world.AddOnline(Section(section), ZoneType::kNormal);
    world.Settle();
    // Added memory is free, and marked like freed memory.
    EXPECT_EQ(world.device->reported(), BlocksOf(Section(section)));
    EXPECT_EQ(world.marked(), 0u);
  }
}

TEST(V12HotplugTest, AnEmptyZoneThatGetsMemoryIsTracked) {
  ReportingWorld world(Growing());
  ASSERT_EQ(world.zone(ZoneType::kMovable).managed_pages(), PageCount(0));
  world.AddOnline({Section(5).start, Section(6).end}, ZoneType::kMovable);
  world.Settle();
  EXPECT_EQ(world.device->reported(),
            BlocksOf({Section(5).start, Section(6).end}));
}

TEST(V12HotplugTest, WhatIsFreedInAddedMemoryIsReported) {
  ReportingWorld world(Growing());
  world.AddOnline(Section(5), ZoneType::kNormal);
  world.Settle();
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  ASSERT_THAT(blocks, SizeIs(12));
  world.Free(std::span(blocks).last(4), kSmall);
  world.Settle();
  ASSERT_THAT(world.device->reports(), SizeIs(2));
  EXPECT_EQ(world.device->last_report(), BlocksOf(Section(5)));
}

TEST(V12HotplugTest, RemovedMemoryIsNeverReported) {
  ReportingWorld world(Marking());
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks, kSmall);
  EXPECT_EQ(world.marked(), 8u);
  world.OfflineRemove(Section(2));
  EXPECT_EQ(world.marked(), 4u);
  EXPECT_FALSE(world.bitmap().Test(At(32)));
  EXPECT_TRUE(world.bitmap().Test(At(48)));
  world.ExpectInvariants();
}

// Sections 2, 3 and 5 are marked; the pass is at 2 when 3 is removed.
TEST(V12HotplugTest, MemoryThatGoesDuringAPassIsNotReported) {
  ReportingWorld world(Growing());
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.AddOnline(Section(5), ZoneType::kNormal);
  world.Free(blocks, kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  ASSERT_EQ(world.device->in_flight(), BlocksOf(Section(2)));
  world.OfflineRemove(Section(3));
  world.Settle();
  const auto reports = world.device->reports();
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_EQ(reports[1], BlocksOf(Section(5)));
  EXPECT_EQ(world.marked(), 0u);
}

// Section 2 is removed when the pass has found its first mark and does not hold
// the zone's lock yet.
TEST(V12HotplugTest, AMarkThatGoesBeforeTheLockIsHeldIsNotReported) {
  LockHook hook;
  WorldOptions options = Growing();
  options.holds = &hook;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks, kSmall);
  bool removed = false;
  hook.on_lock = [&](const Zone&) {
    if (!std::exchange(removed, true)) world.OfflineRemove(Section(2));
  };
  world.Settle();
  EXPECT_EQ(world.device->reported(), BlocksOf(Section(3)));
  EXPECT_EQ(world.marked(), 0u);
}

TEST(V12HotplugTest, MemoryThatComesAheadOfAPassIsTakenByIt) {
  ReportingWorld world(Growing());
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(4), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.AddOnline(Section(5), ZoneType::kNormal);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  EXPECT_EQ(world.device->last_report(), BlocksOf(Section(5)));
}

TEST(V12HotplugTest, MemoryThatComesBackIsTrackedAgain) {
  ReportingWorld world(Growing());
  for (int i = 0; i < 3; ++i) {
    world.AddOnline(Section(5), ZoneType::kNormal);
    world.Settle();
    EXPECT_EQ(world.device->last_report(), BlocksOf(Section(5)));
    world.OfflineRemove(Section(5));
    world.Settle();
  }
  EXPECT_THAT(world.device->reports(), SizeIs(3));
}

TEST(V12HotplugTest, MemoryThatComesBackInAnotherZoneIsTrackedThere) {
  ReportingWorld world(Marking());
  world.AddOnline(Section(5), ZoneType::kNormal);
  EXPECT_EQ(world.marked(ZoneType::kNormal), 4u);
  world.OfflineRemove(Section(5));
  world.AddOnline(Section(5), ZoneType::kMovable);
  EXPECT_EQ(world.marked(ZoneType::kNormal), 0u);
  EXPECT_EQ(world.marked(ZoneType::kMovable), 4u);
  EXPECT_TRUE(world.bitmap(ZoneType::kMovable).Test(Section(5).start));
}

TEST(V12HotplugTest, MemoryThatCameBeforeReportingWasEnabledIsTracked) {
  ReportingWorld world(Growing());
  ASSERT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  world.AddOnline(Section(5), ZoneType::kMovable);
  ASSERT_EQ(world.reporter->Enable(*world.device), absl::OkStatus());
  world.Settle();
  // It was free before.
  EXPECT_THAT(world.device->reports(), IsEmpty());
  world.Free(world.TakeAll(kSmall), kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              Contains(RangeOf(Section(5).start, kSmall)));
}

// The policy is enabled, but the reporter does not observe the zones yet.
TEST(V12HotplugTest, MemoryThatComesWhileReportingIsBeingEnabledIsTracked) {
  ReportingWorld world(Growing());
  ASSERT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  auto policy = std::make_unique<WatchedPolicy>(Growing().v12);
  policy->on_enabled = [&] {
    world.AddOnline({Section(5).start, Section(6).end}, ZoneType::kMovable);
    world.OfflineRemove(Section(2));
  };
  Reporter reporter(*world.allocator, world.time, std::move(policy));
  ASSERT_EQ(reporter.Enable(*world.device), absl::OkStatus());
  world.Free(world.TakeAll(kSmall), kSmall);
  world.time.RunUntilIdle();
  const auto reports = world.device->reports();
  ASSERT_THAT(reports, SizeIs(3));
  EXPECT_EQ(reports[0], BlocksOf(Section(3)));
  EXPECT_EQ(reports[1], BlocksOf(Section(5)));
  EXPECT_EQ(reports[2], BlocksOf(Section(6)));
  EXPECT_EQ(reporter.policy().CheckInvariants(), absl::OkStatus());
}

// Two zones that share sections of 128 MiB have separate bits.
TEST(V12HotplugTest, ZonesDoNotMix) {
  ReportingWorld world(Marking());
  world.AddOnline(Section(5), ZoneType::kMovable);
  world.AddOnline(Section(6), ZoneType::kNormal);
  EXPECT_FALSE(world.bitmap(ZoneType::kNormal).Test(Section(5).start));
  EXPECT_FALSE(world.bitmap(ZoneType::kMovable).Test(Section(6).start));
  world.OfflineRemove(Section(5));
  EXPECT_EQ(world.marked(ZoneType::kNormal), 4u);
  EXPECT_EQ(world.marked(ZoneType::kMovable), 0u);
}

}  // namespace
}  // namespace guestmm::v12_hotplug_test
