// The rules of the v12 series.

#include "guestmm/reporting/v12_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/reporting/v12_testing.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::v12_policy_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using v12_testing::kSmall;
using v12_testing::SmallV12;

// The first pages of ZONE_DMA32 and ZONE_NORMAL.
constexpr Pfn k16MiB = ToPfn(Gpa(16 * kMiB));
constexpr Pfn k4GiB = ToPfn(Gpa(4 * kGiB));

std::vector<GpaRange> RangesOf(std::span<const Pfn> blocks, Order order) {
  std::vector<GpaRange> ranges;
  for (const Pfn pfn : blocks) ranges.push_back(RangeOf(pfn, order));
  return ranges;
}

// Blocks of the real size that cannot merge: 9 is the largest order.
WorldOptions RealSize(uint64_t blocks) {
  return {.memory = {BlocksFrom(k16MiB, blocks, kPageblockOrder)},
          .max_order = kPageblockOrder};
}

// Small blocks that merge up to 8 pages, and a threshold that is never reached.
WorldOptions MergingSize(uint64_t blocks) {
  WorldOptions options = SmallV12(blocks, Order(3));
  options.v12.threshold = 1000;
  return options;
}

TEST(V12RuleTest, DefaultsAreThoseOfTheSeries) {
  const V12Policy policy({});
  EXPECT_EQ(policy.name(), "v12");
  EXPECT_EQ(policy.min_order(), Order(9));
  EXPECT_EQ(policy.capacity(), 16u);
  EXPECT_EQ(V12Options().threshold, 16u);
}

TEST(V12RuleTest, MarksAfterMergingTheMergedHead) {
  ReportingWorld world(MergingSize(4));
  const std::vector<Pfn> halves = world.TakeAll(Order(1));  // of 2 pages
  world.Free(halves[1], Order(1));
  EXPECT_EQ(world.marked(), 0u);
  world.Free(halves[0], Order(1));  // merges to order 2, whose head is 0
  EXPECT_EQ(world.marked(), 1u);
  EXPECT_TRUE(world.bitmap().Test(Pfn(0)));
  // Order 3, freed from the right: the head is not the block that was freed.
  world.Free(halves[3], Order(1));
  world.Free(halves[2], Order(1));
  EXPECT_EQ(world.allocator->pages().Get(Pfn(0)).order, Order(3));
  EXPECT_EQ(world.marked(), 1u);
}

TEST(V12RuleTest, AnOrderTenBlockSetsOnlyItsHeadsBit) {
  ReportingWorld world({.memory = {BlocksFrom(k16MiB, 4, kMaxOrder)}});
  const std::vector<Pfn> blocks = world.TakeAll(kMaxOrder);
  world.Free(blocks[1], kMaxOrder);
  EXPECT_EQ(world.marked(), 1u);
  EXPECT_TRUE(world.bitmap().Test(k16MiB + PageCount(1024)));
  EXPECT_FALSE(world.bitmap().Test(k16MiB + PageCount(1024 + 512)));
}

TEST(V12RuleTest, AnOrderTenBlockIsReportedAtItsWholeOrder) {
  WorldOptions options = {.memory = {BlocksFrom(k16MiB, 4, kMaxOrder)}};
  options.v12.threshold = 2;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kMaxOrder);
  world.Free(std::span(blocks).first(2), kMaxOrder);
  world.Settle();
  EXPECT_THAT(world.device->reports(),
              ElementsAre(ElementsAre(GpaRange{Gpa(16 * kMiB), 4 * kMiB},
                                      GpaRange{Gpa(20 * kMiB), 4 * kMiB})));
}

TEST(V12RuleTest, ASecondFreeDoesNotCountTwice) {
  WorldOptions options = SmallV12(4);
  options.v12.threshold = 1000;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  for (int i = 0; i < 3; ++i) {
    world.Free(blocks[0], kSmall);
    EXPECT_EQ(world.marked(), 1u);
    EXPECT_EQ(world.allocator->Allocate(0, kSmall), blocks[0]);
  }
}

TEST(V12RuleTest, BelowTheMinOrderNothingIsMarked) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> halves = world.TakeAll(Order(1));
  for (size_t i = 0; i < halves.size(); i += 2) world.Free(halves[i], Order(1));
  world.Settle();
  EXPECT_EQ(world.marked(), 0u);
  EXPECT_EQ(world.reporter->counters().passes, 0u);
}

TEST(V12RuleTest, SixteenMarkedBlocksMakeAPass) {
  ReportingWorld world(RealSize(20));
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  world.Free(std::span(blocks).first(15), kPageblockOrder);
  world.Settle();
  EXPECT_THAT(world.device->reports(), IsEmpty());
  world.Free(blocks[15], kPageblockOrder);
  world.Settle();
  EXPECT_THAT(
      world.device->reports(),
      ElementsAre(RangesOf(std::span(blocks).first(16), kPageblockOrder)));
}

TEST(V12RuleTest, TheThresholdIsForEachZone) {
  WorldOptions options = RealSize(20);
  options.memory.push_back(BlocksFrom(k4GiB, 20, kPageblockOrder));
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  // 15 in one zone and 15 in the other.
  world.Free(std::span(blocks).subspan(5, 30), kPageblockOrder);
  world.Settle();
  EXPECT_EQ(world.marked(ZoneType::kDma32), 15u);
  EXPECT_EQ(world.marked(ZoneType::kNormal), 15u);
  EXPECT_EQ(world.reporter->counters().passes, 0u);
}

// v12's refcnt: of many frees above the threshold only one requests a pass.
TEST(V12RuleTest, OneRequestIsOutstanding) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  V12Policy policy({.order = kSmall, .threshold = 2, .capacity = 2});
  std::vector<ReportableZone> zones;
  for (const auto& zone : world.allocator->zones()) zones.emplace_back(*zone);
  ASSERT_EQ(policy.Enable({.zones = zones, .clock = world.time}),
            absl::OkStatus());
  ReportableZone& zone = zones[static_cast<size_t>(world.zone().index())];
  policy.MemoryOnline(zone, zone.span());
  const auto freed = [&](size_t i) {
    LockHolder hold(zone.lock());
    return policy.BlockFreed(zone, blocks[i], kSmall);
  };
  EXPECT_FALSE(freed(0));
  EXPECT_TRUE(freed(1));
  EXPECT_FALSE(freed(2));
  EXPECT_FALSE(freed(3));
  // The pass finds all of them allocated, and ends.
  Scatterlist list(2);
  EXPECT_FALSE(policy.NextBatch(list));
  EXPECT_FALSE(freed(4));
  EXPECT_TRUE(freed(5));
  policy.Disable();
}

TEST(V12RuleTest, NoRequestIsMadeWhileAPassIsUnderWay) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(4), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  world.Free(blocks[6], kSmall);
  world.Free(blocks[7], kSmall);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 1u);
}

TEST(V12RuleTest, ReportsInAscendingOrder) {
  ReportingWorld world(RealSize(40));
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  std::vector<Pfn> shuffled = blocks;
  Random(1).Shuffle(std::span(shuffled));
  world.Free(shuffled, kPageblockOrder);
  world.Settle();
  EXPECT_EQ(world.device->reported(), RangesOf(blocks, kPageblockOrder));
}

TEST(V12RuleTest, ABlockAllocatedSinceIsNotReported) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);
  world.Free(blocks[1], kSmall);
  ASSERT_EQ(world.allocator->Allocate(0, kSmall), blocks[1]);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(blocks[0], kSmall)));
}

// The head is free, but of a block that is smaller than the memory of a bit.
TEST(V12RuleTest, ABlockThatShrankIsNotReported) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);
  const std::vector<Pfn> halves = world.TakeAll(Order(1));
  world.Free(halves[0], Order(1));
  world.Free(blocks[1], kSmall);
  world.Free(blocks[2], kSmall);
  EXPECT_EQ(world.marked(), 3u);
  world.Settle();
  EXPECT_EQ(world.device->reported(),
            RangesOf(std::span(blocks).subspan(1, 2), kSmall));
  EXPECT_EQ(world.marked(), 0u);
}

// 9 pages are free: two blocks and one. Isolating one of them leaves more than
// a mark of 4; isolating both does not.
TEST(V12RuleTest, IsolationStopsAtTheMinWatermark) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.SetMinWatermark(PageCount(4));
  world.Free(blocks[0], kSmall);
  world.Free(blocks[1], kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(blocks[0], kSmall)));
  EXPECT_EQ(world.marked(), 0u);
}

TEST(V12RuleTest, IsolationMustLeaveMoreThanTheMinWatermark) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.SetMinWatermark(PageCount(5));
  world.Free(blocks[0], kSmall);
  world.Free(blocks[1], kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reported(), IsEmpty());
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  EXPECT_EQ(world.marked(), 0u);
}

// Reported, found allocated, refused.
TEST(V12RuleTest, TheBitIsClearedWhateverWasFound) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.SetMinWatermark(PageCount(4));
  for (const size_t i : {0, 1, 2}) world.Free(blocks[i], kSmall);
  ASSERT_EQ(world.allocator->Allocate(0, kSmall), blocks[2]);
  EXPECT_EQ(world.marked(), 3u);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(blocks[0], kSmall)));
  for (const size_t i : {0, 1, 2}) {
    EXPECT_FALSE(world.bitmap().Test(blocks[i])) << i;
  }
  EXPECT_EQ(world.marked(), 0u);
}

TEST(V12RuleTest, BatchesAreOfSixteenAndTheLastIsReportedInPart) {
  ReportingWorld world(RealSize(40));
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  world.Free(blocks, kPageblockOrder);
  world.Settle();
  EXPECT_THAT(world.device->reports(),
              ElementsAre(SizeIs(16), SizeIs(16), SizeIs(8)));
  EXPECT_EQ(world.reporter->counters().passes, 1u);
}

TEST(V12RuleTest, AFullLastBatchIsFollowedByNone) {
  ReportingWorld world(RealSize(40));
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  world.Free(std::span(blocks).first(32), kPageblockOrder);
  world.Settle();
  EXPECT_THAT(world.device->reports(), ElementsAre(SizeIs(16), SizeIs(16)));
}

TEST(V12RuleTest, ABatchNeverSpansZones) {
  WorldOptions options = RealSize(20);
  options.memory.push_back(BlocksFrom(k4GiB, 20, kPageblockOrder));
  ReportingWorld world(options);
  world.Free(world.TakeAll(kPageblockOrder), kPageblockOrder);
  world.Settle();
  const auto reports = world.device->reports();
  ASSERT_THAT(reports,
              ElementsAre(SizeIs(16), SizeIs(4), SizeIs(16), SizeIs(4)));
  for (size_t i = 0; i < reports.size(); ++i) {
    for (const GpaRange& range : reports[i]) {
      EXPECT_EQ(range.gpa >= Gpa(4 * kGiB), i >= 2) << range;
    }
  }
}

TEST(V12RuleTest, AZoneUnderTheThresholdKeepsItsBits) {
  WorldOptions options = SmallV12(4);
  options.memory.push_back(BlocksFrom(k4GiB, 4, kSmall));
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);                        // one in DMA
  world.Free(std::span(blocks).subspan(4, 2), kSmall);  // two in Normal
  world.Settle();
  EXPECT_EQ(world.device->reported(),
            RangesOf(std::span(blocks).subspan(4, 2), kSmall));
  EXPECT_EQ(world.marked(ZoneType::kDma), 1u);
  EXPECT_TRUE(world.bitmap(ZoneType::kDma).Test(blocks[0]));
}

TEST(V12RuleTest, APassTakesEveryZoneOverTheThreshold) {
  WorldOptions options = SmallV12(4);
  options.memory.push_back(BlocksFrom(k4GiB, 4, kSmall));
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(2), kSmall);
  world.Free(std::span(blocks).subspan(4, 2), kSmall);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  EXPECT_THAT(world.device->reports(), ElementsAre(SizeIs(2), SizeIs(2)));
}

TEST(V12RuleTest, TheReturnMarksNothing) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  EXPECT_EQ(world.marked(), 0u);
  EXPECT_EQ(world.allocator->pages().Get(blocks[0]).state, PageState::kFree);
  EXPECT_THAT(world.device->reports(), SizeIs(1));
}

TEST(V12RuleTest, TheReturnMarksNothingEvenWhenItMerges) {
  WorldOptions options = MergingSize(4);
  options.v12.threshold = 1;
  options.v12.capacity = 1;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[2], kSmall);  // so that more than one block is free
  world.Settle();
  world.Free(blocks[0], kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  // The other half is freed while the first is in flight; it has a mark of its
  // own.
  world.Free(blocks[1], kSmall);
  world.Settle();
  EXPECT_EQ(world.allocator->pages().Get(blocks[0]),
            (PageInfo{PageState::kFree, Order(3)}));
  EXPECT_FALSE(world.bitmap().Test(blocks[0]));
}

TEST(V12RuleTest, WhatIsFreeAtEnableIsNotMarked) {
  ReportingWorld world(RealSize(40));
  world.Settle();
  EXPECT_EQ(world.marked(), 0u);
  EXPECT_EQ(world.reporter->counters().passes, 0u);
}

TEST(V12OptionTest, Threshold) {
  WorldOptions options = SmallV12(8);
  options.v12.threshold = 3;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reports(), IsEmpty());
  world.Free(blocks[2], kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reports(), ElementsAre(SizeIs(2), SizeIs(1)));
}

TEST(V12OptionTest, Capacity) {
  WorldOptions options = SmallV12(8);
  options.v12.capacity = 3;
  ReportingWorld world(options);
  world.Free(world.TakeAll(kSmall), kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reports(),
              ElementsAre(SizeIs(3), SizeIs(3), SizeIs(2)));
}

TEST(V12OptionTest, OrderZeroReportsSinglePages) {
  WorldOptions options = SmallV12(4);
  options.v12.order = Order(0);
  options.max_order = Order(0);
  ReportingWorld world(options);
  const std::vector<Pfn> pages = world.TakeAll(Order(0));
  ASSERT_EQ(pages.size(), 17u);
  world.Free(std::span(pages).first(3), Order(0));
  world.Settle();
  EXPECT_THAT(world.device->reported(), SizeIs(3));
}

TEST(V12OptionTest, AreToldByTheirNames) {
  const V12Policy policy({.order = Order(3), .threshold = 5, .capacity = 7});
  EXPECT_THAT(policy.parameters(),
              UnorderedElementsAre(Pair("order", 3), Pair("threshold", 5),
                                   Pair("capacity", 7)));
}

TEST(V12OptionDeathTest, MustMakeSense) {
  EXPECT_DEATH(V12Policy({.order = Order(11)}), "--order=11: must be 0 to 10");
  EXPECT_DEATH(V12Policy({.threshold = 0}), "--threshold=0: must be");
  EXPECT_DEATH(V12Policy({.capacity = 0}), "--capacity=0: must be");
}

}  // namespace
}  // namespace guestmm::v12_policy_test
