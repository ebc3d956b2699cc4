// Where the passes of the adaptive policy continue, when they are repeated,
// what they do with pieces, and what a disabled policy forgets. Regions of 8
// pages, as in adaptive_policy_test.cc, except where the scan of a region's
// pieces needs larger ones.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/reporting/adaptive_policy.h"
#include "tests/reporting/adaptive_testing.h"

namespace guestmm::adaptive_passes_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Order kRegion{3};
constexpr Order kLargest{4};
// Of the worlds with large regions.
constexpr Order kHalf{5};
constexpr Order kLargeRegion{6};

Zone& OnlyZone(AdaptiveWorld& world) {
  return world.allocator->zone(0, ZoneType::kDma);
}

// Nothing of the zone may be isolated until Relax.
void Refuse(AdaptiveWorld& world) {
  OnlyZone(world).SetWatermarks(
      {.min = PageCount(10), .low = PageCount(257), .high = PageCount(257)});
}
void Relax(AdaptiveWorld& world) { OnlyZone(world).SetWatermarks({}); }
// Only memory above `low` may be isolated, a quarter of it at a time, or if
// the zone is quiet a half.
void SetLow(AdaptiveWorld& world, uint64_t low) {
  OnlyZone(world).SetWatermarks(
      {.min = PageCount(0), .low = PageCount(low), .high = PageCount(low)});
}

// Four regions of 64 pages, which are the largest blocks; pieces of 2 pages
// and more.
WorldOptions LargeRegions(LockHoldObserver* holds = nullptr) {
  WorldOptions options = AdaptiveOf({.order = kLargeRegion,
                                     .floor = Order(1),
                                     .delay = milliseconds(500),
                                     .capacity = 1});
  options.memory = {BlocksFrom(Pfn(0), 4, kLargeRegion)};
  options.max_order = kLargeRegion;
  options.holds = holds;
  return options;
}

// The scan of a region's pieces ---------------------------------------------

class ScanCounter final : public LockHoldObserver {
 public:
  void OnUnlock(const Zone&, const ZoneWork& done) override {
    scanned += done.scanned;
  }
  uint64_t scanned = 0;
};

// Each of four reports of one piece continues the scan where the last ended.
TEST(AdaptivePassesTest, EachPieceIsLookedAtOnce) {
  ScanCounter counter;
  AdaptiveWorld world(LargeRegions(&counter));
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  for (const size_t i : {48, 49, 52, 53, 56, 57, 60, 61}) {
    world.Free(pages[i], Order(0));
  }
  // Free memory that is not reported, so that the pieces are a small part.
  for (size_t i = 64; i < 256; i += 2) world.Free(pages[i], Order(0));
  world.Run(seconds(10));
  EXPECT_EQ(world.reported, 8u);
  // Two looks at each of 4 regions, one at each of its 32 pieces, and a few
  // where each report ended. A scan from the start again after each of them
  // would take 24 or more for each.
  EXPECT_LT(counter.scanned, 4u * (2 + 32) + 4 * 8);
}

// The first piece is taken and freed again after a scan has passed it, and
// nothing else is scanned in between. So small a free is not told; that it was
// taken is.
TEST(AdaptivePassesTest, TheNextScanOfARegionBeginsAtItsStart) {
  AdaptiveWorld world;
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  for (const size_t i : {2, 3, 6, 7}) world.Free(pages[i], Order(0));
  for (size_t i = 64; i < pages.size(); ++i) world.Free(pages[i], Order(0));
  world.Run(seconds(10));
  ASSERT_EQ(world.FirstMissing(Order(1)), std::nullopt);
  for (const bool both : {true, false}) {
    const Pfn one = *world.Allocate(Order(1));
    const Pfn other = *world.Allocate(Order(1));
    ASSERT_EQ(std::min(one, other), Pfn(2));
    ASSERT_EQ(std::max(one, other), Pfn(6));
    world.Free(Pfn(2), Order(1));
    if (both) world.Free(Pfn(6), Order(1));
    // Requests a pass.
    world.Free(*world.Allocate(kRegion), kRegion);
    world.Run(seconds(10));
    EXPECT_EQ(world.FirstMissing(Order(1)), std::nullopt);
  }
}

// Half a region is freed, while the scan is in the other half. It is the only
// region that is scanned.
TEST(AdaptivePassesTest, WhatIsFreedBehindTheScanIsReported) {
  WorldOptions options = LargeRegions();
  options.memory = {{Pfn(0), Pfn(256)}};
  AdaptiveWorld world(options);
  const std::vector<Pfn> halves = world.TakeAll(kHalf);
  world.Free(halves[1], kHalf);
  std::vector<Pfn> pages;
  while (const auto pfn = world.Allocate(Order(0))) pages.push_back(*pfn);
  for (uint64_t i : {40, 41, 48, 49}) world.Free(Pfn(i), Order(0));
  world.Free(std::span(halves).subspan(2), kHalf);
  bool freed = false;
  world.device->set_inspect([&](std::span<const GpaRange> ranges) {
    if (freed || ranges[0].gpa != ToGpa(Pfn(40))) return;
    world.Free(halves[0], kHalf);
    freed = true;
  });
  world.Run(seconds(20));
  EXPECT_TRUE(freed);
  EXPECT_EQ(world.FirstMissing(Order(1)), std::nullopt);
  world.ExpectInvariants();
}

// Near the watermarks -------------------------------------------------------

TEST(AdaptivePassesTest, ARefusedZoneIsLookedAtLessAndLess) {
  AdaptiveWorld world;
  Refuse(world);
  world.Run(seconds(30));
  // After 0.5, 1, 2, 4, 8, 16 and 24 s.
  EXPECT_EQ(world.reporter->counters().passes, 7u);
}

// Once it was not refused, it is looked at as often as in the beginning.
TEST(AdaptivePassesTest, ARefusalIsForgottenAfterAPassWithoutOne) {
  AdaptiveWorld world;
  Refuse(world);
  world.Run(seconds(30));
  Relax(world);
  world.Run(seconds(10));
  ASSERT_EQ(world.reported, 256u);

  world.Free(*world.Allocate(kRegion), kRegion);
  Refuse(world);
  world.Run(milliseconds(1200));  // refused after 0.5 and 1 s
  Relax(world);
  world.Run(seconds(1));
  EXPECT_EQ(world.reported, 256u + 8u);
}

// Nor is it remembered if that pass left nothing to look at.
TEST(AdaptivePassesTest, ARefusalIsForgottenWithTheLastOfItsMemory) {
  AdaptiveWorld world;
  const std::vector<Pfn> regions = world.TakeAll(kRegion);
  world.Run(seconds(10));
  world.Free(regions[0], kRegion);
  Refuse(world);
  world.Run(seconds(30));
  ASSERT_EQ(world.reported, 0u);
  Relax(world);
  world.Run(seconds(10));
  ASSERT_EQ(world.reported, 8u);

  world.Free(regions[2], kRegion);
  Refuse(world);
  world.Run(milliseconds(1200));  // refused after 0.5 and 1 s
  Relax(world);
  world.Run(seconds(1));
  EXPECT_EQ(world.reported, 16u);
}

// Nor does a zone that was not refused make the others wait longer.
TEST(AdaptivePassesTest, OnlyPassesThatAreRefusedEverywhereAreRarer) {
  WorldOptions options = AdaptiveOf();
  options.section_order = kLargest;
  options.hotplug_end = Pfn(1024);
  AdaptiveWorld world(options);
  world.Run(seconds(5));
  Zone& refused = world.allocator->zone(0, ZoneType::kMovable);
  world.AddOnline({.start = Pfn(512), .end = Pfn(544)}, ZoneType::kMovable);
  refused.SetWatermarks(
      {.min = PageCount(1), .low = PageCount(32), .high = PageCount(32)});
  for (int i = 0; i < 50; ++i) {
    world.Free(*world.Allocate(kRegion, kGfpDma32), kRegion);
    world.Run(milliseconds(200));
  }
  // The last pass of the other zone, and those after 0.5, 1 and 2 s.
  world.Run(milliseconds(1500));
  ASSERT_EQ(world.FirstMissing(kRegion), std::nullopt);
  refused.SetWatermarks({});
  ASSERT_NE(world.FirstMissing(kRegion), std::nullopt);
  world.Run(milliseconds(1500));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

// A block that is larger than the zone has to spare makes way for others.
TEST(AdaptivePassesTest, ABlockThatIsRefusedIsPutBehindTheOthers) {
  AdaptiveWorld world(AdaptiveOf(
      {.order = kRegion, .floor = kRegion, .delay = milliseconds(500)}));
  world.Run(seconds(5));
  const Pfn large = *world.Allocate(kLargest);
  const Pfn small = *world.Allocate(kRegion);
  ASSERT_TRUE(world.Allocate(kRegion).has_value());  // its buddy
  const uint64_t before = world.reported;
  SetLow(world, 200);  // of 249 pages: 12 may be isolated at a time
  world.Free(large, kLargest);
  world.Run(milliseconds(100));
  world.Free(small, kRegion);
  for (int i = 0; i < 50; ++i) {  // not quiet
    const Pfn page = *world.Allocate(Order(0));
    world.Run(milliseconds(100));
    world.Free(page, Order(0));
  }
  EXPECT_EQ(world.reported - before, 8u);
}

// Frees every other one of regions that are taken in pairs, so that none of
// them merge. The first is due after the delay; the others, which are freed
// while its pass is due, the delay after that.
void FreeEveryOther(AdaptiveWorld& world, int count) {
  std::vector<Pfn> regions;
  for (int i = 0; i < 2 * count; ++i) {
    regions.push_back(*world.Allocate(kRegion));
  }
  for (const Pfn pfn : regions) {
    if (!pfn.IsAligned(kLargest)) world.Free(pfn, kRegion);
  }
}

// A report leaves room for one block, its end for the next one in turn; every
// second one is put behind the others.
TEST(AdaptivePassesTest, ARefusalBehindOtherBlocksDoesNotEndThePass) {
  AdaptiveWorld world(AdaptiveOf(
      {.order = kRegion, .floor = kRegion, .delay = milliseconds(500)}));
  world.Run(seconds(5));
  const uint64_t before = world.reported;
  FreeEveryOther(world, 8);
  SetLow(world, 145);  // of 193 pages: 12 may be isolated at a time
  world.Run(milliseconds(510));
  ASSERT_EQ(world.reported - before, 8u);
  world.Run(milliseconds(500));
  EXPECT_EQ(world.reported - before, (1u + 4u) * 8u);
}

// Reports that are full
// --------------------------------------------------------

TEST(AdaptivePassesTest, WhatAFullReportLeavesIsInTheNextOneOfThePass) {
  AdaptiveWorld world(AdaptiveOf({.order = kRegion,
                                  .floor = kRegion,
                                  .delay = milliseconds(500),
                                  .capacity = 1}));
  world.Run(seconds(5));
  const uint64_t before = world.reported;
  const uint64_t passes = world.reporter->counters().passes;
  FreeEveryOther(world, 4);
  world.Run(milliseconds(1010));
  EXPECT_EQ(world.reported - before, 4u * 8u);
  EXPECT_EQ(world.reporter->counters().passes - passes, 2u);
}

// A region has two reports. During the first its buddy is freed, and joins it.
void ReportBesideAFreedBuddy(bool buddy_is_first) {
  AdaptiveWorld world(AdaptiveOf({.order = kRegion,
                                  .floor = Order(0),
                                  .delay = milliseconds(500),
                                  .capacity = 2}));
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn block = *world.Allocate(kLargest);
  world.Free(block, kLargest);
  std::vector<Pfn> regions = {*world.Allocate(kRegion),
                              *world.Allocate(kRegion)};
  std::sort(regions.begin(), regions.end());
  ASSERT_EQ(regions[0] + kRegion.pages(), regions[1]);
  const Pfn region = regions[buddy_is_first ? 1 : 0];
  const Pfn buddy = regions[buddy_is_first ? 0 : 1];

  // The host gets every other page of the region.
  world.Free(region, kRegion);
  std::vector<Pfn> pages;
  for (int i = 0; i < 8; ++i) pages.push_back(*world.Allocate(Order(0)));
  std::sort(pages.begin(), pages.end());
  ASSERT_EQ(pages[0], region);
  for (const size_t i : {0, 2, 4, 6}) world.Free(pages[i], Order(0));
  world.Run(seconds(30));
  const uint64_t before = world.reported;

  bool freed = false;
  world.device->set_inspect([&](std::span<const GpaRange>) {
    if (!freed) world.Free(buddy, kRegion);
    freed = true;
  });
  for (const size_t i : {1, 3, 5, 7}) world.Free(pages[i], Order(0));
  world.Run(milliseconds(510));
  EXPECT_TRUE(freed);
  // The rest waits as long as the buddy, which was in use a moment ago.
  EXPECT_EQ(world.reported - before, 2u);
  world.Run(seconds(10));
  EXPECT_EQ(world.reported - before, 4u + 8u);
}

TEST(AdaptivePassesTest, ARegionWaitsForTheOneBehindIt) {
  ReportBesideAFreedBuddy(/*buddy_is_first=*/false);
}

TEST(AdaptivePassesTest, ARegionWaitsForTheOneBeforeIt) {
  ReportBesideAFreedBuddy(/*buddy_is_first=*/true);
}

// A quiet zone --------------------------------------------------------------

// After refaults memory waits eight seconds, but only while the zone is in use.
TEST(AdaptivePassesTest, InAQuietZoneMemoryWaitsNoLongerThanTheDelay) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  for (int i = 0; i < 60; ++i) {
    world.Free(*world.Allocate(kRegion), kRegion);
    world.Run(seconds(1));
  }
  world.Run(seconds(20));
  const uint64_t before = world.reported;
  world.Free(*world.Allocate(kRegion), kRegion);
  // The pass after 0.5 s finds that pages were taken since the last one; the
  // one after 1.5 s, that none were in a second.
  world.Run(milliseconds(1400));
  EXPECT_EQ(world.reported - before, 0u);
  world.Run(milliseconds(200));
  EXPECT_EQ(world.reported - before, 8u);
}

// A policy that is disabled
// ----------------------------------------------------

void Reenable(AdaptiveWorld& world) {
  ASSERT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  ASSERT_EQ(world.reporter->Enable(*world.device), absl::OkStatus());
}

TEST(AdaptivePassesTest, ADisabledPolicyForgetsThatItWasRefused) {
  AdaptiveWorld world;
  Refuse(world);
  world.Run(seconds(30));
  Reenable(world);
  world.Run(milliseconds(700));  // refused after 0.5 s
  Relax(world);
  world.Run(milliseconds(400));
  EXPECT_EQ(world.reported, 256u);
}

TEST(AdaptivePassesTest, ADisabledPolicyForgetsThatReportsFailed) {
  AdaptiveWorld world;
  bool refuse = true;
  world.device->set_answer([&](std::span<const GpaRange>) {
    return refuse ? absl::UnavailableError("full") : absl::OkStatus();
  });
  world.Run(seconds(30));
  Reenable(world);
  refuse = false;
  world.Run(milliseconds(600));
  EXPECT_EQ(world.reported, 256u);
}

// It is disabled while a report is in flight, which then fails and so would
// have ended the pass.
TEST(AdaptivePassesTest, ADisabledPolicyForgetsItsPass) {
  WorldOptions options = AdaptiveOf();
  options.report_time = {};
  AdaptiveWorld world(options);
  Work fail([&] { world.FailReport(); });
  world.time.RunFor(milliseconds(600));
  ASSERT_TRUE(world.device->outstanding());
  world.time.Queue(fail, milliseconds(1));
  Reenable(world);
  world.time.RunFor(milliseconds(510));
  EXPECT_TRUE(world.device->outstanding());
}

// Pieces ----------------------------------------------------------------------

TEST(AdaptivePassesTest, ColdMemoryGoesBackInPieces) {
  AdaptiveWorld world;
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  // The first page of each region stays in use: pieces of 1, 2 and 4 pages.
  for (const Pfn pfn : pages) {
    if (!pfn.IsAligned(kRegion)) world.Free(pfn, Order(0));
  }
  world.Run(seconds(1));
  EXPECT_EQ(world.reported, 0u);
  world.Run(seconds(60));
  EXPECT_EQ(world.FirstMissing(Order(1)), std::nullopt);
  EXPECT_EQ(world.reported, 32u * 6);
}

// A piece that was used a moment ago waits again, even if its region's turn has
// come.
TEST(AdaptivePassesTest, APieceThatIsUsedMeanwhileIsNotCold) {
  AdaptiveWorld world;
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn other = *world.Allocate(kLargest);
  std::vector<Pfn> pages;
  for (int i = 0; i < 8; ++i) pages.push_back(*world.Allocate(Order(0)));
  world.Free(std::span(pages).subspan(2, 2), Order(0));
  world.Run(seconds(5));
  const uint64_t before = world.reported;
  const auto use = [&] {
    ASSERT_EQ(world.Allocate(Order(1)), pages[2]);
    world.Free(pages[2], Order(1));
  };
  // Cold after two seconds. So small a free requests no pass; a larger one
  // does.
  use();
  world.Free(other, kLargest);
  world.Run(milliseconds(1900));
  EXPECT_EQ(world.reported - before, 16u);
  use();
  world.Run(milliseconds(1900));
  EXPECT_EQ(world.reported - before, 16u);
  world.Run(seconds(10));
  EXPECT_EQ(world.reported - before, 16u + 2u);
}

TEST(AdaptivePassesTest, AFloorAtTheOrderMeansNoPieces) {
  AdaptiveWorld world(AdaptiveOf({.order = kRegion, .floor = kRegion}));
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  for (const Pfn pfn : pages) {
    if (!pfn.IsAligned(kRegion)) world.Free(pfn, Order(0));
  }
  world.Run(seconds(60));
  EXPECT_EQ(world.reported, 0u);
  EXPECT_TRUE(world.reporter->AtRest());
}

TEST(AdaptivePassesTest, PiecesThatMergeAreNotReportedTwice) {
  AdaptiveWorld world;
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  for (const Pfn pfn : pages) {
    if (!pfn.IsAligned(kRegion)) world.Free(pfn, Order(0));
  }
  world.Run(seconds(60));
  for (const Pfn pfn : pages) {
    if (pfn.IsAligned(kRegion)) world.Free(pfn, Order(0));
  }
  world.Run(seconds(60));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
  EXPECT_EQ(world.reported, 256u);
}

}  // namespace
}  // namespace guestmm::adaptive_passes_test
