// What v12 loses and reports twice, kept since experiments must show it; then
// its plain defects, which are mended. The letters are those of
// docs/policies.md.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "tests/reporting/v12_testing.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::v12_losses_test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using v12_testing::kSmall;
using v12_testing::SmallV12;

bool IsFree(const ReportingWorld& world, Pfn pfn, Order order) {
  return world.allocator->pages().IsFree(pfn, order);
}

TEST(V12LossTest, A_FoundAllocatedIsMarkedOnlyByItsNextFree) {
  ReportingWorld world(SmallV12(4));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[0], kSmall);
  world.Free(blocks[1], kSmall);
  ASSERT_EQ(world.allocator->Allocate(0, kSmall), blocks[1]);
  world.Settle();
  EXPECT_EQ(world.marked(), 0u);

  world.Free(blocks[1], kSmall);
  EXPECT_TRUE(world.bitmap().Test(blocks[1]));
  world.Free(blocks[2], kSmall);
  world.Settle();
  EXPECT_THAT(
      world.device->reported(),
      ElementsAre(RangeOf(blocks[0], kSmall), RangeOf(blocks[1], kSmall),
                  RangeOf(blocks[2], kSmall)));
}

TEST(V12LossTest, B_RefusedByTheWatermarkIsLostThoughFree) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.SetMinWatermark(PageCount(4));
  world.Free(blocks[0], kSmall);
  world.Free(blocks[1], kSmall);  // refused
  world.Settle();
  // Now it could be isolated, and there is another pass; but its bit is gone.
  world.SetMinWatermark(PageCount(0));
  world.Free(blocks[2], kSmall);
  world.Free(blocks[3], kSmall);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 2u);
  EXPECT_TRUE(IsFree(world, blocks[1], kSmall));
  EXPECT_THAT(world.device->reported(),
              Not(Contains(RangeOf(blocks[1], kSmall))));
}

// A block of twice the size has one bit. If its lower half is allocated,
// nothing points to the upper half.
TEST(V12LossTest, C_TheUpperHalfOfASplitBlockIsLost) {
  constexpr Order kLarge(3);
  ReportingWorld world(SmallV12(8, kLarge));
  const std::vector<Pfn> blocks = world.TakeAll(kLarge);
  world.Free(blocks[0], kLarge);
  ASSERT_EQ(world.allocator->Allocate(0, kSmall), blocks[0]);
  world.Free(blocks[2], kLarge);
  world.Settle();
  EXPECT_THAT(world.device->reports(),
              ElementsAre(ElementsAre(RangeOf(blocks[2], kLarge))));
  EXPECT_TRUE(IsFree(world, blocks[0] + kSmall.pages(), kSmall));
  EXPECT_EQ(world.marked(), 0u);
}

TEST(V12LossTest, C_UntilTheHalvesMergeAgain) {
  constexpr Order kLarge(3);
  ReportingWorld world(SmallV12(8, kLarge));
  const std::vector<Pfn> blocks = world.TakeAll(kLarge);
  world.Free(blocks[0], kLarge);
  ASSERT_EQ(world.allocator->Allocate(0, kSmall), blocks[0]);
  world.Free(blocks[2], kLarge);
  world.Settle();
  world.Free(blocks[0], kSmall);
  EXPECT_TRUE(world.bitmap().Test(blocks[0]));
}

// A is in flight when its buddy B is freed and marked. A is returned, merges
// with B and is the head of the merged block, without a mark; B's mark is
// stale.
TEST(V12LossTest, D_ABuddyFreedDuringTheFlightIsLost) {
  WorldOptions options = SmallV12(8, Order(3));
  options.v12.threshold = 1;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  const Pfn a = blocks[0];
  const Pfn b = blocks[1];
  world.Free(a, kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.Free(b, kSmall);
  EXPECT_TRUE(world.bitmap().Test(b));
  world.Settle();
  EXPECT_TRUE(IsFree(world, a, Order(3)));
  world.Free(blocks[4], kSmall);  // a pass that clears the stale mark
  world.Settle();
  EXPECT_EQ(world.marked(), 0u);
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(a, kSmall), RangeOf(blocks[4], kSmall)));
}

// In the opposite case the buddy is the head of the merged block, and its mark
// is valid.
TEST(V12LossTest, D_ButNotWhereTheBuddyIsTheHead) {
  WorldOptions options = SmallV12(8, Order(3));
  options.v12.threshold = 1;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(blocks[1], kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.Free(blocks[0], kSmall);  // behind the scan
  world.Settle();
  EXPECT_TRUE(world.bitmap().Test(blocks[0]));
  world.Free(blocks[4], kSmall);  // requests the next pass
  world.Settle();
  EXPECT_THAT(world.device->reported(), Contains(RangeOf(blocks[0], Order(3))));
}

TEST(V12LossTest, E_OneSmallPageReportsItsWholeBlockAgain) {
  WorldOptions options = {.memory = {BlocksFrom(Pfn(0), 4, kPageblockOrder)},
                          .v12 = {.threshold = 1},
                          .max_order = kPageblockOrder};
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kPageblockOrder);
  world.Free(blocks[0], kPageblockOrder);
  world.Settle();
  // The other free page is taken first, then one of the block.
  world.allocator->Allocate(0, Order(0));
  const std::optional<Pfn> page = world.allocator->Allocate(0, Order(0));
  ASSERT_EQ(page, blocks[0]);
  const std::optional<Pfn> kept = blocks[1];
  world.Free(*kept, kPageblockOrder);  // so that isolating leaves pages free
  world.Settle();
  world.Free(*page, Order(0));
  world.Settle();
  const GpaRange whole = RangeOf(blocks[0], kPageblockOrder);
  EXPECT_THAT(world.device->reported(),
              ElementsAre(whole, RangeOf(*kept, kPageblockOrder), whole));
}

// 2 blocks above the threshold, marked behind the scan, wait for another free.
TEST(V12LossTest, I_WhatIsFreedBehindThePassWaitsForALaterFree) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).subspan(4, 2), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  EXPECT_EQ(world.marked(), 2u);
  EXPECT_TRUE(world.reporter->AtRest());
  EXPECT_THAT(world.device->reports(), SizeIs(1));

  world.Free(blocks[7], kSmall);
  world.Settle();
  EXPECT_THAT(
      world.device->reported(),
      ElementsAre(RangeOf(blocks[4], kSmall), RangeOf(blocks[5], kSmall),
                  RangeOf(blocks[0], kSmall), RangeOf(blocks[1], kSmall),
                  RangeOf(blocks[7], kSmall)));
}

TEST(V12LossTest, I_WhatIsFreedAheadOfThePassIsTakenByIt) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(2), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.Free(blocks[5], kSmall);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  EXPECT_THAT(world.device->reported(), Contains(RangeOf(blocks[5], kSmall)));
}

// v12 reads a zone's span once, when reporting is enabled; memory that is added
// outside of it later has no bits.
//
//   page   0       32        64    80      96
//        [ added ][ snapshot ]  .. [ added ]
//
// Sections have 16 pages, 4 blocks; they are in ZONE_NORMAL.
class V12HotplugLossTest : public testing::Test {
 protected:
  static constexpr Pfn At(uint64_t page) {
    return ToPfn(Gpa(4 * kGiB)) + PageCount(page);
  }
  static WorldOptions Options(std::vector<MemoryRange> memory) {
    WorldOptions options = SmallV12(0);
    options.memory = std::move(memory);
    options.section_order = Order(4);
    options.hotplug_end = At(256);
    return options;
  }

  // The blocks of [At(from), At(from + 16)), allocated if need be and freed.
  static void ExpectIgnored(ReportingWorld& world, uint64_t from,
                            ZoneType type) {
    world.AddOnline({At(from), At(from + 16)}, type);
    EXPECT_EQ(world.marked(type), 0u);
    world.Settle();
    for (const Pfn pfn : world.TakeAll(kSmall)) {
      if (pfn >= At(from) && pfn < At(from + 16)) world.Free(pfn, kSmall);
    }
    EXPECT_EQ(world.marked(type), 0u);
    world.Settle();
    EXPECT_THAT(world.device->reports(), IsEmpty());
  }
};

TEST_F(V12HotplugLossTest, G_MemoryAddedBehindTheSpanIsNotTracked) {
  ReportingWorld world(Options({BlocksFrom(At(32), 8, kSmall)}));
  ExpectIgnored(world, 80, ZoneType::kNormal);
}

TEST_F(V12HotplugLossTest, G_MemoryAddedBelowTheSpanIsNotTracked) {
  ReportingWorld world(Options({BlocksFrom(At(32), 8, kSmall)}));
  ExpectIgnored(world, 0, ZoneType::kNormal);
}

TEST_F(V12HotplugLossTest, G_AnEmptyZoneThatGetsMemoryIsNotTracked) {
  ReportingWorld world(Options({BlocksFrom(At(32), 8, kSmall)}));
  ExpectIgnored(world, 80, ZoneType::kMovable);
}

TEST_F(V12HotplugLossTest, G_ButMemoryAddedInAHoleOfTheSpanIs) {
  ReportingWorld world(
      Options({{At(0), At(16)}, BlocksFrom(At(48), 4, kSmall)}));
  world.AddOnline({At(16), At(32)}, ZoneType::kNormal);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(At(16), kSmall), RangeOf(At(20), kSmall),
                          RangeOf(At(24), kSmall), RangeOf(At(28), kSmall)));
}

TEST_F(V12HotplugLossTest, G_UntilReportingIsEnabledAgain) {
  ReportingWorld world(Options({BlocksFrom(At(32), 8, kSmall)}));
  ExpectIgnored(world, 80, ZoneType::kNormal);
  ASSERT_EQ(world.reporter->Disable(*world.device), absl::OkStatus());
  ASSERT_EQ(world.reporter->Enable(*world.device), absl::OkStatus());
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  ASSERT_EQ(blocks.front(), At(80));
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(At(80), kSmall), RangeOf(At(84), kSmall)));
}

class V12HotplugMendedTest : public V12HotplugLossTest {};

// v12 kept the bits and the count of removed memory forever, and so looked
// there again in each pass.
TEST_F(V12HotplugMendedTest, G_TheMarksOfRemovedMemoryGoWithIt) {
  WorldOptions options = Options({BlocksFrom(At(32), 8, kSmall)});
  options.v12.threshold = 1000;
  ReportingWorld world(options);
  world.Free(world.TakeAll(kSmall), kSmall);
  ASSERT_EQ(world.marked(), 8u);
  world.OfflineRemove({At(32), At(48)});
  EXPECT_EQ(world.marked(), 4u);
  EXPECT_EQ(world.bitmap().FindNext(Pfn(0)), At(48));
  world.ExpectInvariants();
}

// The pass has not reached them yet.
TEST_F(V12HotplugMendedTest, G_APassSkipsMemoryThatHasGone) {
  ReportingWorld world(Options({BlocksFrom(At(32), 8, kSmall)}));
  world.Free(world.TakeAll(kSmall), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  world.OfflineRemove({At(48), At(64)});
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(At(32), kSmall), RangeOf(At(36), kSmall),
                          RangeOf(At(40), kSmall), RangeOf(At(44), kSmall)));
  EXPECT_EQ(world.marked(), 0u);
}

// v12's report function returned nothing, so v12 could not notice.
TEST(V12LossTest, ARefusedReportPutsBlocksBackUnmarked) {
  ReportingWorld world(SmallV12(4));
  world.device->set_answer([](std::span<const GpaRange>) {
    return absl::ResourceExhaustedError("the queue is full");
  });
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(3), kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reports(), IsEmpty());
  EXPECT_EQ(world.reporter->counters().failed_reports, 2u);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(IsFree(world, blocks[i], kSmall));
  EXPECT_EQ(world.marked(), 0u);
}

TEST(V12LossTest, AReportEndedByAResetPutsBlocksBackUnmarked) {
  WorldOptions options = SmallV12(4);
  options.report_time = std::nullopt;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  world.device->End(absl::UnavailableError("reset"));
  world.Settle();
  EXPECT_TRUE(IsFree(world, blocks[0], kSmall));
  EXPECT_TRUE(IsFree(world, blocks[1], kSmall));
  EXPECT_EQ(world.marked(), 0u);
}

// The bits of a zone that starts in the middle of a block, as ZONE_DMA does at
// pfn 1: v12 looked at wrong pages and never reported such a zone.
TEST(V12MendedTest, F_AZoneWithAnUnalignedStartIsReported) {
  for (const uint64_t start : {1, 2, 3, 5, 7}) {
    SCOPED_TRACE(start);
    WorldOptions options = SmallV12(0);
    options.memory = {{Pfn(start), Pfn(33)}};
    ReportingWorld world(options);
    const std::vector<Pfn> blocks = world.TakeAll(kSmall);
    world.Free(blocks, kSmall);
    world.Settle();
    std::vector<GpaRange> all;
    for (const Pfn pfn : blocks) all.push_back(RangeOf(pfn, kSmall));
    EXPECT_EQ(world.device->reported(), all);
  }
}

// v12 cleared bits outside the lock, so a mark that was set meanwhile was lost.
TEST(V12MendedTest, H_TheCounterEqualsTheBitsAtEveryStep) {
  ReportingWorld world(SmallV12(8, Order(3)));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  // Each report meets a guest that frees and allocates.
  size_t next = 4;
  world.device->set_answer([&](std::span<const GpaRange>) {
    if (next < blocks.size()) world.Free(blocks[next++], kSmall);
    world.allocator->Allocate(0, kSmall);
    EXPECT_EQ(world.bitmap().CheckInvariants(), absl::OkStatus());
    return absl::OkStatus();
  });
  world.Free(std::span(blocks).first(4), kSmall);
  while (!world.reporter->AtRest()) {
    world.time.RunFor(Nanoseconds(100));
    world.ExpectInvariants();
  }
  EXPECT_GT(world.reporter->counters().reports, 0u);
}

}  // namespace
}  // namespace guestmm::v12_losses_test
