// The rules of the adaptive policy, in worlds of a few pages: regions of 8
// pages, pieces down to 2, blocks of at most 16.

#include "guestmm/reporting/adaptive_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "tests/reporting/adaptive_testing.h"

namespace guestmm::adaptive_policy_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Order kRegion{3};
constexpr Order kLargest{4};

GpaRange Pages(uint64_t pfn, uint64_t count) {
  return {.gpa = ToGpa(Pfn(pfn)), .bytes = count * kPageSize};
}

// No loss ---------------------------------------------------------------------

TEST(AdaptivePolicyTest, MemoryThatWasFreeBeforeIsReported) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
  EXPECT_EQ(world.reported, 256u);
  EXPECT_TRUE(world.reporter->AtRest());
}

TEST(AdaptivePolicyTest, WhatIsFreedIsReportedOnceItWasLeftAlone) {
  AdaptiveWorld world;
  const std::vector<Pfn> blocks = world.TakeAll(kRegion);
  world.Run(seconds(5));
  EXPECT_EQ(world.reported, 0u);
  world.Free(blocks[0], kRegion);
  world.Run(milliseconds(499));
  EXPECT_FALSE(world.device->outstanding());
  EXPECT_EQ(world.reported, 0u);
  world.Run(milliseconds(2));
  EXPECT_EQ(world.reported, 8u);
}

// v12's loss (c).
TEST(AdaptivePolicyTest, TheFreeHalfOfASplitBlockIsReported) {
  AdaptiveWorld world;
  const std::vector<Pfn> blocks = world.TakeAll(kLargest);
  world.Free(blocks[3], kLargest);
  ASSERT_TRUE(world.Allocate(kRegion).has_value());
  world.Run(seconds(5));
  EXPECT_EQ(world.reported, 8u);
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

// v12's loss (d).
TEST(AdaptivePolicyTest, WhatMergesWithABlockInFlightIsReported) {
  AdaptiveWorld world;
  const std::vector<Pfn> blocks = world.TakeAll(kRegion);
  world.Run(seconds(5));
  world.Free(blocks[0], kRegion);
  world.time.RunFor(milliseconds(500) + std::chrono::microseconds(50));
  ASSERT_TRUE(world.device->outstanding());
  world.Free(blocks[1], kRegion);
  world.Run(seconds(5));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
  // And nothing is reported twice.
  EXPECT_EQ(world.reported, 16u);
}

// v12's loss (b).
TEST(AdaptivePolicyTest, WhatTheWatermarkRefusedIsReportedLater) {
  AdaptiveWorld world;
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  // Isolating a block would leave no more than min, so Isolate refuses.
  zone.SetWatermarks(
      {.min = PageCount(250), .low = PageCount(252), .high = PageCount(252)});
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 0u);
  zone.SetWatermarks({});
  world.Run(seconds(30));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

// The policy's milliseconds wrap after 32 bits.
TEST(AdaptivePolicyTest, SoIsWhatWasRefusedForAMonth) {
  using std::chrono::hours;
  AdaptiveWorld world(
      AdaptiveOf({.order = kRegion, .floor = kRegion, .delay = hours(1)}));
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  zone.SetWatermarks(
      {.min = PageCount(256), .low = PageCount(256), .high = PageCount(256)});
  world.Run(hours(30 * 24));
  EXPECT_EQ(world.reported, 0u);
  zone.SetWatermarks({});
  world.Run(hours(48));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

TEST(AdaptivePolicyTest, WhatTheDeviceRefusedIsReportedLater) {
  AdaptiveWorld world;
  bool refuse = true;
  world.device->set_answer([&](std::span<const GpaRange>) {
    return refuse ? absl::UnavailableError("full") : absl::OkStatus();
  });
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 0u);
  EXPECT_GT(world.reporter->counters().failed_reports, 2u);
  // Retries are spaced out.
  EXPECT_LT(world.reporter->counters().failed_reports, 20u);
  refuse = false;
  world.Run(seconds(30));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

// A report that succeeds ends the longer pauses after one that failed.
TEST(AdaptivePolicyTest, AFailureIsForgottenAfterASuccess) {
  AdaptiveWorld world;
  int reports = 0;
  world.device->set_answer([&](std::span<const GpaRange>) {
    return ++reports == 1 ? absl::UnavailableError("full") : absl::OkStatus();
  });
  world.Run(seconds(30));
  ASSERT_EQ(world.reporter->counters().failed_reports, 1u);
  const Pfn first = *world.Allocate(kLargest);
  const Pfn second = *world.Allocate(kLargest);
  const uint64_t before = world.reported;
  world.Free(first, kLargest);
  world.Run(milliseconds(200));
  world.Free(second, kLargest);
  world.Run(milliseconds(310));
  EXPECT_EQ(world.reported - before, 16u);
  // It was queued as of the pass that was planned.
  world.Run(milliseconds(500));
  EXPECT_EQ(world.reported - before, 32u);
}

// NextPass has looked at the first zone and found nothing. A block is freed
// there before it looks at the second one, whose memory goes as well.
TEST(AdaptivePolicyTest, WhatIsFreedWhileTheNextPassIsPlannedIsReported) {
  LockHook hook;
  WorldOptions options = AdaptiveOf({.order = kRegion, .floor = kRegion});
  options.section_order = kLargest;
  options.hotplug_end = Pfn(1024);
  options.holds = &hook;
  AdaptiveWorld world(options);
  bool refuse = false;
  world.device->set_answer([&](std::span<const GpaRange>) {
    return refuse ? absl::UnavailableError("full") : absl::OkStatus();
  });
  const std::vector<Pfn> blocks = world.TakeAll(kRegion);
  world.Run(seconds(30));
  ASSERT_TRUE(world.reporter->AtRest());
  const PfnRange added = {.start = Pfn(512), .end = Pfn(544)};
  world.AddOnline(added, ZoneType::kMovable);
  refuse = true;
  hook.on_lock = [&](const Zone& zone) {
    // After a report that is refused no zone is looked at but by NextPass.
    if (zone.type() != ZoneType::kMovable || !refuse ||
        world.reporter->counters().failed_reports == 0) {
      return;
    }
    refuse = false;
    world.OfflineRemove(added);
    world.Free(blocks[0], kRegion);
  };
  world.Run(seconds(30));
  EXPECT_FALSE(refuse);
  EXPECT_EQ(world.reported, 8u);
}

TEST(AdaptivePolicyTest, AFailureEndsThePass) {
  AdaptiveWorld world(
      AdaptiveOf({.order = kRegion, .floor = Order(1), .capacity = 2}));
  world.device->set_answer(
      [](std::span<const GpaRange>) { return absl::UnavailableError("full"); });
  world.Run(milliseconds(300));
  EXPECT_EQ(world.reporter->counters().failed_reports, 1u);
}

// v12's: a block whose pageblock is going offline is not lost if offlining
// fails.
TEST(AdaptivePolicyTest, MemoryThatDidNotGoOfflineAfterAllIsReported) {
  AdaptiveWorld world;
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  const PfnRange going = {.start = Pfn(0), .end = Pfn(64)};
  std::vector<MigrateType> types;
  {
    LockHolder hold(zone.lock());
    types = zone.IsolatePageblocks(going);
  }
  world.Run(seconds(10));
  EXPECT_EQ(world.reported, 192u);
  {
    LockHolder hold(zone.lock());
    zone.RestorePageblocks(going, types);
  }
  world.Run(seconds(10));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

// No waste --------------------------------------------------------------------

// v12's (e): only the page that completed a block is reported, not all of the
// block.
TEST(AdaptivePolicyTest, OnlyWhatWasTakenSinceIsReportedAgain) {
  AdaptiveWorld world;
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn page = world.Allocate(Order(0)).value();
  world.Free(page, Order(0));
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 257u);
  EXPECT_EQ(world.needed, 257u);
  EXPECT_THAT(world.device->last_report(), ElementsAre(Pages(page.value(), 1)));
}

TEST(AdaptivePolicyTest, PagesOnEndAreOneRange) {
  AdaptiveWorld world;
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  std::vector<Pfn> pages;
  for (int i = 0; i < 8; ++i) pages.push_back(*world.Allocate(Order(0)));
  world.Free(pages, Order(0));
  world.Run(seconds(30));
  EXPECT_THAT(world.device->last_report(),
              ElementsAre(Pages(pages[0].value(), 8)));
}

TEST(AdaptivePolicyTest, ABlockWithMoreHolesThanAReportHasRangesTakesSeveral) {
  AdaptiveWorld world(
      AdaptiveOf({.order = kRegion, .floor = Order(0), .capacity = 2}));
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn other = world.Allocate(kRegion).value();
  std::vector<Pfn> pages;
  for (int i = 0; i < 8; ++i) pages.push_back(*world.Allocate(Order(0)));
  // Every other page returns as a piece, so the whole has holes. Frees this
  // small request no pass; another free does.
  for (const size_t i : {0, 2, 4, 6}) world.Free(pages[i], Order(0));
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 256u);
  world.Free(other, kRegion);
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 256u + 8 + 4);
  const size_t before = world.device->reports().size();
  for (const size_t i : {1, 3, 5, 7}) world.Free(pages[i], Order(0));
  world.Run(seconds(30));
  EXPECT_EQ(world.device->reports().size() - before, 2u);
  EXPECT_EQ(world.reported, 256u + 8 + 8);
}

TEST(AdaptivePolicyTest, WithHugePagesOneTouchMakesTheWholeGranuleNeedAReport) {
  AdaptiveWorld world(
      AdaptiveOf({.order = kRegion, .granule = kRegion, .floor = kRegion}));
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn page = world.Allocate(Order(0)).value();
  world.Free(page, Order(0));
  world.Run(seconds(30));
  EXPECT_THAT(world.device->last_report(),
              ElementsAre(Pages(page.AlignDown(kRegion).value(), 8)));
}

// With an order below the host's granule: the page that is in use stays, what
// the host maps with it when it is touched is reported, and once all of a split
// granule is free it is reported whole.
TEST(AdaptivePolicyTest, ReportsPartsOfHugePagesIfItsOrderIsBelowThem) {
  AdaptiveWorld world(AdaptiveOf({.order = Order(2), .granule = kLargest}),
                      /*its_granule=*/kLargest);
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  EXPECT_EQ(world.reported, 256u);
  const Pfn page = world.Allocate(Order(0)).value();
  const Pfn granule = page.AlignDown(kLargest);
  ASSERT_EQ(page, granule);
  // Memory that is taken asks for no pass; this does.
  world.Free(world.Allocate(kLargest).value(), kLargest);
  world.Run(seconds(30));
  // The host mapped 16 pages; 4 of them are not in a free block of order 2.
  EXPECT_EQ(world.reported, 256u + 16 + 12);
  EXPECT_EQ(world.FirstMissing(Order(2)), std::nullopt);
  // It is split: this maps one page.
  const Pfn second = world.Allocate(Order(2)).value();
  ASSERT_EQ(second.AlignDown(kLargest), granule);
  world.Free(second, Order(2));
  world.Run(seconds(30));
  EXPECT_EQ(world.reported, 256u + 16 + 12 + 4);
  EXPECT_EQ(world.reported, world.needed);
  world.Free(page, Order(0));
  world.Run(seconds(30));
  EXPECT_THAT(world.device->last_report(),
              ElementsAre(Pages(granule.value(), 16)));
}

TEST(AdaptivePolicyTest, ByDefaultItSplitsNoHugePage) {
  AdaptiveWorld world(AdaptiveOf({.order = kLargest, .granule = kLargest}),
                      /*its_granule=*/kLargest);
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  world.Run(seconds(5));
  const Pfn page = world.Allocate(Order(0)).value();
  world.Run(seconds(60));
  EXPECT_EQ(world.reported, 256u);
  world.Free(page, Order(0));
  world.Run(seconds(60));
  EXPECT_EQ(world.reported, 256u + 16);
}

TEST(AdaptivePolicyTest, ANewDriverGoesOnWhereTheLastOneEnded) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  const Pfn taken = world.Allocate(kLargest).value();
  world.Disable();
  const Pfn unseen = world.Allocate(kLargest).value();
  world.Free(taken, kLargest);
  world.Free(unseen, kLargest);
  world.Enable();
  world.Run(seconds(30));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
  EXPECT_EQ(world.reported, 256u + 32u);
}

// The rest of a block that was split is still free, and still reported.
TEST(AdaptivePolicyTest, ANewDriverKnowsOfWhatASplitLeft) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  ASSERT_EQ(world.Allocate(Order(0)), Pfn(256));
  const Pfn page = world.Allocate(Order(0)).value();
  world.Disable();
  world.Enable();
  world.Run(seconds(5));
  world.Free(page, Order(0));
  world.Run(seconds(30));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
  // That page, and the parts of its region that were too small to be marked.
  EXPECT_EQ(world.reported, 256u + 8u);
}

TEST(AdaptivePolicyTest, AZoneOfSmallerBlocksIsRefused) {
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(64)}},
                                                .max_order = Order(6),
                                                .pageblock_order = Order(6),
                                                .min_free_kbytes = 0})
                             .value();
  VirtualTime time(1);
  FakeDevice device;
  Reporter reporter(*allocator, time,
                    std::make_unique<AdaptivePolicy>(AdaptiveOptions{}));
  EXPECT_EQ(reporter.Enable(device),
            absl::InvalidArgumentError("policy adaptive reports order 9 and "
                                       "above; the largest block has order 6"));
}

// Counts what a policy does under zones' locks.
class WorkCounter final : public LockHoldObserver {
 public:
  void OnUnlock(const Zone&, const ZoneWork& done) override {
    work.scanned += done.scanned;
    work.isolated += done.isolated;
    work.returned += done.returned;
  }
  ZoneWork work;
};

// Free blocks scanned for each block that is reported.
double ScansPerBlock(const MemoryMap& memory) {
  VirtualTime time(1);
  const auto allocator = PageAllocator::Create({.memory = memory}).value();
  FakeDevice device(time);
  WorkCounter counter;
  Reporter reporter(*allocator, time,
                    std::make_unique<AdaptivePolicy>(AdaptiveOptions{}),
                    &counter);
  EXPECT_EQ(reporter.Enable(device), absl::OkStatus());
  time.RunFor(seconds(60));
  const ZoneWork& work = counter.work;
  EXPECT_EQ(work.isolated, reporter.counters().reported_blocks);
  EXPECT_EQ(work.isolated, work.returned);
  EXPECT_GT(work.isolated, 0u);
  return static_cast<double>(work.scanned) / static_cast<double>(work.isolated);
}

TEST(AdaptivePolicyTest, ABlockTakesTheSameWorkWhateverTheSizeOfItsZone) {
  const auto pages = [](uint64_t bytes) { return ToPfn(Gpa(bytes)); };
  const double small = ScansPerBlock({{Pfn(0), pages(kGiB)}});
  const double large = ScansPerBlock({{Pfn(0), pages(8 * kGiB)}});
  const double with_holes = ScansPerBlock(
      {{Pfn(0), pages(kGiB)}, {pages(kTiB), pages(kTiB + 128 * kMiB)}});
  EXPECT_LT(small, 4);
  EXPECT_NEAR(large, small, 0.1);
  EXPECT_NEAR(with_holes, small, 0.1);
}

// No harm ---------------------------------------------------------------------

TEST(AdaptivePolicyTest, WhatIsUsedAllTheTimeIsLeftAlone) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  for (int i = 0; i < 100; ++i) {
    const Pfn pfn = world.Allocate(kRegion).value();
    world.Free(pfn, kRegion);
    world.Run(milliseconds(200));
  }
  EXPECT_EQ(world.reported, 256u);
}

TEST(AdaptivePolicyTest, RefaultsMakeItWaitLonger) {
  AdaptiveWorld world;
  world.Run(seconds(5));
  // Used again a second after it was freed.
  std::vector<uint64_t> reported;
  for (int i = 0; i < 60; ++i) {
    const Pfn pfn = world.Allocate(kRegion).value();
    world.Free(pfn, kRegion);
    world.Run(seconds(1));
    reported.push_back(world.reported);
  }
  EXPECT_GT(reported[5], reported[0]);
  // In the end it is not reported at all, however often it is used.
  EXPECT_LT(reported[59] - reported[30], 8u * 8u);
  // Once it is left alone, it is reported.
  world.Run(seconds(60));
  EXPECT_EQ(world.FirstMissing(kRegion), std::nullopt);
}

TEST(AdaptivePolicyTest, AZoneUnderItsLowWatermarkIsLeftAlone) {
  AdaptiveWorld world;
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  zone.SetWatermarks(
      {.min = PageCount(10), .low = PageCount(257), .high = PageCount(257)});
  world.Run(seconds(60));
  EXPECT_EQ(world.reporter->counters().reports, 0u);
}

TEST(AdaptivePolicyTest, WhileAZoneIsInUseMostOfWhatIsFreeStaysThere) {
  AdaptiveWorld world(
      AdaptiveOf({.order = kRegion, .floor = Order(1), .capacity = 32}));
  PageCount most;
  world.device->set_inspect([&](std::span<const GpaRange>) {
    most = std::max(most, world.allocator->Counts().isolated);
  });
  for (int i = 0; i < 20; ++i) {
    const Pfn pfn = world.Allocate(Order(0)).value();
    world.Run(milliseconds(100));
    world.Free(pfn, Order(0));
  }
  EXPECT_GT(most, PageCount(0));
  EXPECT_LE(most, PageCount(64));
}

}  // namespace
}  // namespace guestmm::adaptive_policy_test
