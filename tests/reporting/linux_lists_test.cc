// The rules of Linux 5.7's reporting for one free list (page_reporting_cycle)
// and for the blocks that are returned to it (page_reporting_drain).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/reporting/linux_policy.h"
#include "tests/reporting/linux_testing.h"

namespace guestmm::linux_lists_test {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// The report of blocks that were isolated in this order.
std::vector<GpaRange> ReportOf(std::span<const Pfn> taken,
                               Order order = kSmall) {
  std::vector<GpaRange> ranges;
  for (const Pfn pfn : taken) ranges.push_back(RangeOf(pfn, order));
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

// Walking

TEST(LinuxListTest, AReportNamesItsBlocksLastTakenFirst) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const std::vector<Pfn> list = world.List(kSmall);
  ASSERT_THAT(list, SizeIs(8));
  EXPECT_THAT(LinuxByHand(world, 8).Pass(), ElementsAre(ReportOf(list)));
}

TEST(LinuxListTest, WhatIsMarkedIsSkipped) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const std::vector<Pfn> list = world.List(kSmall);
  for (const size_t i : {0, 1, 3, 5, 7}) world.Mark(list[i]);
  const std::vector<Pfn> unmarked = {list[2], list[4], list[6]};
  EXPECT_THAT(LinuxByHand(world, 8).Pass(), ElementsAre(ReportOf(unmarked)));
}

TEST(LinuxListTest, AtRestNothingIsReportedTwice) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  world.Settle();
  ASSERT_THAT(world.device->reported(), SizeIs(8));
  const Pfn used = world.allocator->Allocate(0, kSmall).value();
  world.Free(used, kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reported(), SizeIs(9));
  EXPECT_THAT(world.device->last_report(), ElementsAre(RangeOf(used, kSmall)));
}

// The blocks at 0 and 8 have the larger order, those at 16 and 24 the smaller.
struct TwoOrders : LinuxWorld {
  explicit TwoOrders(size_t capacity)
      : LinuxWorld(LinuxOf(8, capacity, kLarge)) {
    const std::vector<Pfn> blocks = TakeAll(kSmall);
    for (const size_t i : {0, 1, 2, 3, 4, 6}) Free(blocks[i], kSmall);
    large = List(kLarge);
    small = List(kSmall);
    EXPECT_THAT(large, UnorderedElementsAre(Pfn(0), Pfn(8)));
    EXPECT_THAT(small, UnorderedElementsAre(Pfn(16), Pfn(24)));
  }

  std::vector<Pfn> large;
  std::vector<Pfn> small;
};

TEST(LinuxListTest, TheSmallestOrderComesFirst) {
  TwoOrders world(/*capacity=*/2);
  EXPECT_THAT(
      LinuxByHand(world, 2).Pass(),
      ElementsAre(ReportOf(world.small), ReportOf(world.large, kLarge)));
}

// Three blocks of two lists; the fourth shows that there are more.
TEST(LinuxListTest, WhatAListLeavesOverIsReportedWithTheNext) {
  TwoOrders world(/*capacity=*/3);
  EXPECT_THAT(LinuxByHand(world, 3).Pass(),
              ElementsAre(ElementsAre(RangeOf(world.large[0], kLarge),
                                      RangeOf(world.small[1], kSmall),
                                      RangeOf(world.small[0], kSmall)),
                          ElementsAre(RangeOf(world.large[1], kLarge))));
}

TEST(LinuxListTest, AndWhatTheLastOneLeavesAtTheZonesEnd) {
  TwoOrders world(/*capacity=*/5);
  EXPECT_THAT(LinuxByHand(world, 5).Pass(), ElementsAre(SizeIs(4)));
}

TEST(LinuxListTest, EachTypeHasItsTurn) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const Pfn kernel = world.allocator->Allocate(0, kSmall, kGfpKernel).value();
  world.Free(kernel, kSmall);
  ASSERT_THAT(world.List(kSmall, MigrateType::kUnmovable), ElementsAre(kernel));
  std::vector<Pfn> taken = {kernel};
  for (const Pfn pfn : world.List(kSmall)) taken.push_back(pfn);
  EXPECT_THAT(LinuxByHand(world, 8).Pass(), ElementsAre(ReportOf(taken)));
}

TEST(LinuxListTest, WhatIsOnItsWayOfflineHasNone) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  const PfnRange range = {Pfn(0), Pfn(12)};
  std::vector<MigrateType> types;
  {
    LockHolder hold(world.zone().lock());
    types = world.zone().IsolatePageblocks(range);
  }
  const std::vector<Pfn> list = world.List(kSmall, MigrateType::kIsolate);
  ASSERT_THAT(list, SizeIs(3));
  world.Mark(list.front());  // would be passed over
  world.Settle();
  EXPECT_EQ(world.List(kSmall, MigrateType::kIsolate), list);
  EXPECT_THAT(world.device->reported(), SizeIs(5));
  for (const GpaRange& reported : world.device->reported()) {
    EXPECT_FALSE(range.Contains(ToPfn(reported.gpa))) << reported;
  }
  LockHolder hold(world.zone().lock());
  world.zone().RestorePageblocks(range, types);
}

// One hold for the list, one for the returned block; none for an empty list.
TEST(LinuxListTest, AnEmptyListIsNotLocked) {
  class CountHolds final : public LockHoldObserver {
   public:
    void OnUnlock(const Zone&, const ZoneWork&) override { ++holds; }
    int holds = 0;
  };
  LinuxWorld world(LinuxOf(8, /*capacity=*/8, kMaxOrder));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  for (size_t i = 0; i < 8; ++i) world.Free(blocks[i], kSmall);
  ASSERT_THAT(world.List(Order(5)), SizeIs(1));
  CountHolds count;
  EXPECT_THAT(LinuxByHand(world, 4, &count).Pass(), ElementsAre(SizeIs(1)));
  EXPECT_EQ(count.holds, 2);
}

// A full report

TEST(LinuxListTest, AFullReportGoesOutOnlyWhenThereIsMoreToTake) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const std::vector<Pfn> list = world.List(kSmall);
  for (const size_t i : {0, 3, 5, 6, 7}) world.Mark(list[i]);
  LinuxByHand by_hand(world, 2);
  EXPECT_EQ(by_hand.Next(), ReportOf(std::vector{list[1], list[2]}));
  // The block that did not fit is now the list's first; the skipped blocks are
  // at its end.
  EXPECT_THAT(world.List(kSmall), ElementsAre(list[4], list[5], list[6],
                                              list[7], list[0], list[3]));
  by_hand.Return();
  EXPECT_EQ(by_hand.Next(), ReportOf(std::vector{list[4]}));
}

// The two blocks of one list fill a report, which waits for the next list's
// block.
TEST(LinuxListTest, WhichMayBeAnotherListsBlock) {
  TwoOrders world(/*capacity=*/2);
  world.Mark(world.large[0]);
  LinuxByHand by_hand(world, 2);
  EXPECT_EQ(by_hand.Next(), ReportOf(world.small));
  EXPECT_THAT(world.List(kLarge), ElementsAre(world.large[1], world.large[0]));
  by_hand.Return();
}

TEST(LinuxListTest, AfterAReportTheWalkGoesOnFromTheListsFirst) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const std::vector<Pfn> list = world.List(kSmall);
  const Pfn used = world.allocator->Allocate(0, kSmall).value();
  ASSERT_EQ(used, list[0]);
  LinuxByHand by_hand(world, 2);
  EXPECT_EQ(by_hand.Next(), ReportOf(std::vector{list[1], list[2]}));
  world.Free(used, kSmall);  // to the list's head
  by_hand.Return();
  EXPECT_EQ(by_hand.Next(), ReportOf(std::vector{used, list[3]}));
}

TEST(LinuxListTest, AListMayBeGoneAfterAReport) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  LinuxByHand by_hand(world, 2);
  ASSERT_THAT(by_hand.Next(), SizeIs(2));
  ASSERT_THAT(world.TakeAll(kSmall), SizeIs(6));
  by_hand.Return();
  ASSERT_THAT(world.TakeAll(kSmall), SizeIs(2));
  EXPECT_THAT(by_hand.Next(), IsEmpty());
}

// The budget

// 96 blocks, 2 in a report: a sixteenth is 3 reports, and one more is sent.
TEST(LinuxListTest, APassTakesASixteenthOfAListAndOneReport) {
  LinuxWorld world(LinuxOf(96, /*capacity=*/2));
  uint64_t pass = 0;
  for (const size_t reports : {4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48}) {
    world.time.RunFor(seconds(2));
    world.time.RunFor(Nanoseconds(100'000));
    EXPECT_EQ(world.passes(), ++pass);
    EXPECT_EQ(world.reports(), reports);
  }
  // The twelfth pass spent its budget and found no more blocks.
  world.Settle();
  EXPECT_EQ(world.passes(), 12u);
  EXPECT_THAT(world.device->reported(), SizeIs(96));
}

// 33 blocks, 2 in a report: two sixteenths, rounded up, although only 7 are
// unmarked.
TEST(LinuxListTest, TheBudgetIsOfAllFreeBlocksOfTheOrderRoundedUp) {
  for (const auto& [blocks, reports] :
       std::vector<std::pair<uint64_t, size_t>>{{32, 2}, {33, 3}}) {
    LinuxWorld world(LinuxOf(blocks, /*capacity=*/2));
    const std::vector<Pfn> list = world.List(kSmall);
    for (size_t i = 7; i < list.size(); ++i) world.Mark(list[i]);
    EXPECT_THAT(LinuxByHand(world, 2).Pass(), SizeIs(reports)) << blocks;
  }
}

TEST(LinuxListTest, ASpentBudgetAsksForAnotherPass) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  const std::vector<Pfn> list = world.List(kSmall);
  LinuxByHand by_hand(world, 2);
  EXPECT_THAT(by_hand.Pass(), SizeIs(2));
  EXPECT_EQ(by_hand.NextPass(), seconds(2));
  EXPECT_FALSE(by_hand.BlockFreed());
  // It begins with the block that exceeded the budget.
  EXPECT_EQ(world.List(kSmall).front(), list[4]);
  EXPECT_THAT(by_hand.Pass(),
              ElementsAre(ReportOf(std::vector{list[4], list[5]}),
                          ReportOf(std::vector{list[6], list[7]})));
  EXPECT_EQ(by_hand.NextPass(), std::nullopt);
}

TEST(LinuxListTest, ABudgetThatIsSpentExactlyAsksForNone) {
  LinuxWorld world(LinuxOf(4, /*capacity=*/2));
  LinuxByHand by_hand(world, 2);
  EXPECT_THAT(by_hand.Pass(), SizeIs(2));
  EXPECT_EQ(by_hand.NextPass(), std::nullopt);
}

// The smaller order has six blocks and a budget for four of them; the larger
// order is visited nevertheless.
TEST(LinuxListTest, EachListHasItsOwn) {
  LinuxWorld world(LinuxOf(16, /*capacity=*/2, kLarge));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  for (const size_t i : {0, 2, 4, 6, 8, 10, 12, 13, 14, 15}) {
    world.Free(blocks[i], kSmall);
  }
  const std::vector<Pfn> small = world.List(kSmall);
  const std::vector<Pfn> large = world.List(kLarge);
  ASSERT_THAT(small, SizeIs(6));
  ASSERT_THAT(large, SizeIs(2));
  LinuxByHand by_hand(world, 2);
  EXPECT_THAT(by_hand.Pass(),
              ElementsAre(ReportOf(std::span(small).first(2)),
                          ReportOf(std::span(small).subspan(2, 2)),
                          ReportOf(large, kLarge)));
  EXPECT_EQ(by_hand.NextPass(), seconds(2));
}

// Refusal

// Four small blocks above the watermark are two large ones: the third is
// refused. No further pass is requested.
TEST(LinuxListTest, ARefusedIsolationEndsTheListUntilTheNextRequest) {
  LinuxWorld world(LinuxOf(16, /*capacity=*/4, kLarge));
  const std::vector<Pfn> list = world.List(kLarge);
  ASSERT_THAT(list, SizeIs(8));
  world.Mark(list[0]);
  world.SetMinWatermark(PageCount(16 * 4 + 1 - 17));
  LinuxByHand by_hand(world, 4);
  EXPECT_EQ(by_hand.Next(), ReportOf(std::vector{list[1], list[2]}, kLarge));
  // The refused block is the first in the next walk.
  EXPECT_THAT(world.List(kLarge), ElementsAre(list[3], list[4], list[5],
                                              list[6], list[7], list[0]));
  by_hand.Return();
  EXPECT_THAT(by_hand.Next(), IsEmpty());
  EXPECT_EQ(by_hand.NextPass(), std::nullopt);
}

// Return

TEST(LinuxListTest, WhatComesBackIsMarked) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  LinuxByHand(world, 8).Pass();
  EXPECT_THAT(world.List(kSmall), SizeIs(8));
  for (const Pfn pfn : world.List(kSmall)) {
    EXPECT_TRUE(world.IsReported(pfn)) << pfn;
  }
}

// So memory that the host has is used last.
TEST(LinuxListTest, WhatComesBackGoesToTheTail) {
  LinuxWorld world(LinuxOf(4, /*capacity=*/4));
  const std::vector<Pfn> list = world.List(kSmall);
  LinuxByHand by_hand(world, 2);
  ASSERT_EQ(by_hand.Next(), ReportOf(std::span(list).first(2)));
  by_hand.Return();
  EXPECT_THAT(world.List(kSmall),
              ElementsAre(list[2], list[3], list[1], list[0]));
}

TEST(LinuxListTest, ButNotIfTheHostDidNotSeeIt) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  LinuxByHand by_hand(world, 8);
  ASSERT_THAT(by_hand.Next(), SizeIs(8));
  by_hand.Return(/*acknowledged=*/false);
  EXPECT_THAT(world.List(kSmall), SizeIs(8));
  for (const Pfn pfn : world.List(kSmall)) {
    EXPECT_FALSE(world.IsReported(pfn)) << pfn;
  }
  EXPECT_THAT(by_hand.Next(), IsEmpty());
  EXPECT_EQ(by_hand.NextPass(), std::nullopt);
}

// Its buddy was freed while it was in flight; the merged block is reported
// again.
TEST(LinuxListTest, WhatMergesAsItComesBackIsReportedAgainWhole) {
  LinuxWorld world(LinuxOf(4, /*capacity=*/1, kLarge));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);
  world.Free(blocks[2], kSmall);  // for the watermark's sake
  ASSERT_TRUE(world.time.WaitUntil([&] {
    return world.device->in_flight() ==
           FakeDevice::Ranges{RangeOf(blocks[0], kSmall)};
  }));
  world.Free(blocks[1], kSmall);
  world.Settle();
  EXPECT_THAT(world.device->last_report(),
              ElementsAre(RangeOf(blocks[0], kLarge)));
  EXPECT_TRUE(world.IsReported(blocks[0]));
}

TEST(LinuxListTest, ABlockThatWasTakenInPartIsReportedAgainWhole) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/2));
  world.Settle();
  ASSERT_THAT(world.device->reported(), SizeIs(8));
  // The spare page first.
  const Pfn spare = world.allocator->Allocate(0, Order(0)).value();
  const Pfn page = world.allocator->Allocate(0, Order(0)).value();
  world.Free(page, Order(0));
  world.Settle();
  EXPECT_THAT(world.device->last_report(),
              ElementsAre(RangeOf(page.AlignDown(kSmall), kSmall)));
  EXPECT_THAT(world.device->reported(), SizeIs(9));
  world.Free(spare, Order(0));
}

// Linux does not restore the type, as v12 does: a block that the kernel used is
// movable from then on.
TEST(LinuxListTest, PageblocksBecomeMovable) {
  LinuxWorld world(LinuxOf(8, /*capacity=*/8));
  const Pfn kernel = world.allocator->Allocate(0, kSmall, kGfpKernel).value();
  world.Free(kernel, kSmall);
  LinuxByHand(world, 8).Pass();
  EXPECT_EQ(world.allocator->pages().pageblock(kernel).type,
            MigrateType::kMovable);
  EXPECT_THAT(world.List(kSmall, MigrateType::kUnmovable), IsEmpty());
  EXPECT_THAT(world.List(kSmall), SizeIs(8));
}

}  // namespace
}  // namespace guestmm::linux_lists_test
