// Zone's interface for policies: the mark of a free block, walking and rotating
// a free list, the block around a page, and notifications of blocks taken.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_reporting_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

void Mark(TinyZone& zone, uint64_t pfn) {
  LockHolder hold(zone->lock());
  zone->MarkReported(Pfn(pfn));
}

bool IsReported(TinyZone& zone, uint64_t pfn) {
  LockHolder hold(zone->lock());
  return zone->IsReported(Pfn(pfn));
}

TEST(ZoneMarkTest, AMarkedBlockIsAsFreeAsBefore) {
  TinyZone zone(16);
  EXPECT_FALSE(IsReported(zone, 0));
  Mark(zone, 0);
  EXPECT_TRUE(IsReported(zone, 0));
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_EQ(zone.FreeBlockAt(0), Order(4));
  EXPECT_EQ(zone.CheckInvariants(), absl::OkStatus());
}

TEST(ZoneMarkTest, ASplitClearsIt) {
  TinyZone zone(16);
  Mark(zone, 0);
  ASSERT_EQ(zone.Allocate(3), Pfn(0));
  EXPECT_FALSE(IsReported(zone, 8));
}

TEST(ZoneMarkTest, BeingTakenWholeClearsIt) {
  TinyZone zone(16);
  Mark(zone, 0);
  ASSERT_EQ(zone.Allocate(4), Pfn(0));
  zone.Free(0, 4);
  EXPECT_FALSE(IsReported(zone, 0));
}

TEST(ZoneMarkTest, AMergeClearsItOfBothHalves) {
  TinyZone zone(16);
  ASSERT_EQ(zone.Allocate(3), Pfn(0));
  Mark(zone, 8);
  zone.Free(0, 3);
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_FALSE(IsReported(zone, 0));
}

TEST(ZoneMarkTest, BeingIsolatedClearsIt) {
  TinyZone zone(32, Order(4));
  Mark(zone, 0);
  std::optional<IsolatedBlock> block = zone.Isolate(0);
  ASSERT_TRUE(block);
  zone.Return(*std::move(block));
  EXPECT_FALSE(IsReported(zone, 0));
}

TEST(ZoneMarkDeathTest, OnlyTheHeadOfAFreeBlockCanBeMarked) {
  TinyZone zone(16);
  zone.AllocatePages(1);
  EXPECT_DEATH(Mark(zone, 0), "pfn 0x0 is not a free block of zone Normal");
  EXPECT_DEATH(Mark(zone, 9), "pfn 0x9 is not a free block of zone Normal");
}

// Linux moves a block between lists without del_page_from_free_list.
TEST(ZoneMarkTest, AMoveToAnotherTypesListKeepsIt) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(3),
                 .pageblock_order = Order(3)});
  Mark(zone, 8);
  LockHolder hold(zone->lock());
  const PfnRange range{Pfn(8), Pfn(16)};
  const std::vector<MigrateType> types = zone->IsolatePageblocks(range);
  EXPECT_TRUE(zone->IsReported(Pfn(8)));
  zone->RestorePageblocks(range, types);
  EXPECT_TRUE(zone->IsReported(Pfn(8)));
}

TEST(ZoneWalkTest, GoesFromTheHeadToTheEnd) {
  TinyZone zone(32, Order(3));
  LockHolder hold(zone->lock());
  std::vector<Pfn> walked;
  for (std::optional<Pfn> at =
           zone->FirstFreeBlock(Order(3), MigrateType::kMovable);
       at; at = zone->NextFreeBlock(*at, Order(3), MigrateType::kMovable)) {
    walked.push_back(*at);
  }
  std::vector<Pfn> listed;
  zone->ForEachFreeBlock(Order(3), MigrateType::kMovable,
                         [&](Pfn pfn) { listed.push_back(pfn); });
  EXPECT_EQ(walked, listed);
  EXPECT_EQ(walked.size(), 4u);
}

TEST(ZoneWalkTest, AnEmptyListHasNoFirst) {
  TinyZone zone(32, Order(3));
  LockHolder hold(zone->lock());
  EXPECT_TRUE(zone->HasFreeBlock(Order(3), MigrateType::kMovable));
  EXPECT_FALSE(zone->HasFreeBlock(Order(2), MigrateType::kMovable));
  EXPECT_EQ(zone->FirstFreeBlock(Order(2), MigrateType::kMovable),
            std::nullopt);
}

TEST(ZoneWalkTest, ARotationMakesWhatWasFirstLast) {
  TinyZone zone(32, Order(3));
  const std::vector<uint64_t> before = zone.List(3);
  ASSERT_EQ(before.size(), 4u);
  {
    LockHolder hold(zone->lock());
    zone->RotateFreeList(Order(3), MigrateType::kMovable, Pfn(before[2]));
  }
  EXPECT_THAT(zone.List(3),
              ElementsAre(before[2], before[3], before[0], before[1]));
  EXPECT_EQ(zone.CheckInvariants(), absl::OkStatus());
}

TEST(ZoneWalkDeathTest, NextOfABlockOnAnotherListEndsTheProcess) {
  TinyZone zone(16);
  zone.AllocatePages(1);  // AFF-F---F-------
  LockHolder hold(zone->lock());
  EXPECT_DEATH(zone->NextFreeBlock(Pfn(0), Order(0), MigrateType::kMovable),
               "pfn 0x0 is not a free block of zone Normal");
  EXPECT_DEATH(zone->NextFreeBlock(Pfn(4), Order(3), MigrateType::kMovable),
               "pfn 0x4 is not on the free lists of order 3");
  EXPECT_DEATH(zone->RotateFreeList(Order(3), MigrateType::kMovable, Pfn(4)),
               "pfn 0x4 is not on the free lists of order 3");
}

TEST(ZoneAroundTest, FindsTheFreeBlockOfEveryPage) {
  TinyZone zone(16);
  zone.AllocatePages(1);  // AFF-F---F-------
  LockHolder hold(zone->lock());
  EXPECT_EQ(zone->FreeBlockAround(Pfn(0)), std::nullopt);
  for (const auto& [head, order] :
       {std::pair<uint64_t, int>{1, 0}, {2, 1}, {4, 2}, {8, 3}}) {
    const Zone::Block block{.pfn = Pfn(head), .order = Order(order)};
    for (uint64_t i = 0; i < block.order.pages().value(); ++i) {
      EXPECT_EQ(zone->FreeBlockAround(Pfn(head + i)), block) << head + i;
    }
  }
}

TEST(ZoneAroundTest, TailsOfAllocatedBlocksAndAbsentPagesAreInNone) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(32)}, {{Pfn(0), Pfn(16)}}, Order(3));
  const std::optional<Pfn> taken = zone.Allocate(3);
  ASSERT_TRUE(taken);
  LockHolder hold(zone->lock());
  EXPECT_EQ(zone->FreeBlockAround(*taken + PageCount(5)), std::nullopt);
  EXPECT_EQ(zone->FreeBlockAround(Pfn(20)), std::nullopt);
  EXPECT_EQ(zone->FreeBlockAround(Pfn(1) + PageCount(1 << 20)), std::nullopt);
}

// Records the blocks taken.
class TakenRecorder final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone&, Pfn, Order) override { return false; }
  void OnBlocksTaken(Zone& zone, std::span<const PfnRange> runs,
                     Order order) override {
    free_pages.push_back(zone.free_pages().value());
    for (const PfnRange& run : runs) {
      for (Pfn pfn = run.start; pfn < run.end; pfn += order.pages()) {
        taken.emplace_back(pfn.value(), order.value());
      }
    }
    last_runs.assign(runs.begin(), runs.end());
  }
  void Wake() override {}

  std::vector<std::pair<uint64_t, int>> taken;
  // The zone's free pages at each call.
  std::vector<uint64_t> free_pages;
  // Of the last call.
  std::vector<PfnRange> last_runs;
};

TEST(ZoneTakenTest, WithTellEachTakenBlockIsNotified) {
  TinyZone zone(16);
  TakenRecorder recorder;
  zone->SetObserver(&recorder, Order(0), TakenBlocks::kTell);
  ASSERT_EQ(zone.Allocate(2), Pfn(0));
  EXPECT_THAT(recorder.taken, ElementsAre(Pair(0, 2)));
  EXPECT_THAT(recorder.free_pages, ElementsAre(12));
}

TEST(ZoneTakenTest, ABatchIsOneNotification) {
  TinyZone zone(16);
  TakenRecorder recorder;
  zone->SetObserver(&recorder, Order(0), TakenBlocks::kTell);
  std::array<Pfn, 3> pages;
  {
    LockHolder hold(zone->lock());
    zone->AllocateBulk(pages, Order(0), MigrateType::kMovable, Mixing::kAllow);
  }
  EXPECT_THAT(recorder.taken, ElementsAre(Pair(0, 0), Pair(1, 0), Pair(2, 0)));
  EXPECT_THAT(recorder.free_pages, ElementsAre(13));
  EXPECT_THAT(recorder.last_runs,
              ElementsAre(PfnRange{.start = Pfn(0), .end = Pfn(3)}));
}

TEST(ZoneTakenTest, ABatchOutOfTwoBlocksIsOneNotificationOfTwoRuns) {
  TinyZone zone(16);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(zone.Allocate(2));
  zone.Free(0, 2);
  zone.Free(8, 2);
  TakenRecorder recorder;
  zone->SetObserver(&recorder, Order(0), TakenBlocks::kTell);
  std::array<Pfn, 3> blocks;
  {
    LockHolder hold(zone->lock());
    zone->AllocateBulk(blocks, Order(1), MigrateType::kMovable, Mixing::kAllow);
  }
  EXPECT_THAT(recorder.last_runs,
              ElementsAre(PfnRange{.start = Pfn(8), .end = Pfn(12)},
                          PfnRange{.start = Pfn(0), .end = Pfn(2)}));
  EXPECT_THAT(recorder.free_pages, ElementsAre(2));
}

TEST(ZoneTakenTest, FailuresAndIsolationAreNotNotified) {
  TinyZone zone(16, Order(3));
  TakenRecorder recorder;
  zone->SetObserver(&recorder, Order(0), TakenBlocks::kTell);
  std::optional<IsolatedBlock> block = zone.Isolate(8);
  ASSERT_TRUE(block);
  zone.Return(*std::move(block));
  std::array<Pfn, 0> none;
  {
    LockHolder hold(zone->lock());
    zone->AllocateBulk(none, Order(0), MigrateType::kMovable, Mixing::kAllow);
  }
  EXPECT_THAT(recorder.taken, IsEmpty());
}

TEST(ZoneTakenTest, WithIgnoreNoTakenBlockIsNotified) {
  TinyZone zone(16);
  TakenRecorder recorder;
  zone->SetObserver(&recorder);
  zone.Allocate(2);
  EXPECT_THAT(recorder.taken, IsEmpty());
}

}  // namespace
}  // namespace guestmm::zone_reporting_test
