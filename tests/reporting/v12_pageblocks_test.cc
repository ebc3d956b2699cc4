// What v12 does to the types of the pageblocks that it reports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/zone.h"
#include "tests/reporting/v12_testing.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::v12_pageblocks_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using v12_testing::kSmall;
using v12_testing::SmallV12;

MigrateType TypeOf(ReportingWorld& world, Pfn pfn) {
  return world.allocator->pages().pageblock(pfn).type;
}

// A block that the kernel used returns to the list that the kernel allocates
// from.
TEST(V12PageblocksTest, TheFirstPageblockKeepsItsType) {
  WorldOptions options = SmallV12(8);
  options.v12.threshold = 1;
  options.report_time = std::nullopt;
  ReportingWorld world(options);
  const Pfn pfn = world.allocator->Allocate(0, kSmall, kGfpKernel).value();
  ASSERT_EQ(TypeOf(world, pfn), MigrateType::kUnmovable);
  world.Free(pfn, kSmall);
  world.Settle();
  EXPECT_THAT(world.device->in_flight(), ElementsAre(RangeOf(pfn, kSmall)));
  EXPECT_EQ(TypeOf(world, pfn), MigrateType::kUnmovable);
  world.device->End();
  world.Settle();
  EXPECT_EQ(TypeOf(world, pfn), MigrateType::kUnmovable);
}

TEST(V12PageblocksTest, AlsoOfABlockOfHalfAPageblock) {
  WorldOptions options = SmallV12(8);
  options.v12.threshold = 1;
  options.v12.order = Order(1);
  ReportingWorld world(options);
  const Pfn used = world.allocator->Allocate(0, Order(1), kGfpKernel).value();
  const Pfn freed = world.allocator->Allocate(0, Order(1), kGfpKernel).value();
  ASSERT_EQ(used.AlignDown(kSmall), freed.AlignDown(kSmall));
  world.Free(freed, Order(1));
  world.Settle();
  EXPECT_THAT(world.device->reported(), ElementsAre(RangeOf(freed, Order(1))));
  EXPECT_EQ(TypeOf(world, freed), MigrateType::kUnmovable);
}

// The second pageblock of an order-10 block becomes movable when it is
// isolated.
TEST(V12PageblocksTest, TheSecondPageblockBecomesMovable) {
  constexpr Order kLarge(3);
  WorldOptions options = SmallV12(8);
  options.v12.threshold = 1;
  options.max_order = kLarge;
  options.pageblock_order = kSmall;
  ReportingWorld world(options);
  const Pfn pfn = world.allocator->Allocate(0, kLarge, kGfpKernel).value();
  const Pfn second = pfn + kSmall.pages();
  ASSERT_EQ(TypeOf(world, second), MigrateType::kUnmovable);
  world.Free(pfn, kLarge);
  world.Settle();
  EXPECT_THAT(world.device->reported(), ElementsAre(RangeOf(pfn, kLarge)));
  EXPECT_EQ(TypeOf(world, pfn), MigrateType::kUnmovable);
  EXPECT_EQ(TypeOf(world, second), MigrateType::kMovable);
}

// A refused isolation changes no type.
TEST(V12PageblocksTest, ARefusedBlockKeepsItsPageblocksTypes) {
  WorldOptions options = SmallV12(8);
  options.v12.threshold = 1;
  ReportingWorld world(options);
  const Pfn pfn = world.allocator->Allocate(0, kSmall, kGfpKernel).value();
  world.SetMinWatermark(PageCount(1000));
  world.Free(pfn, kSmall);
  world.Settle();
  EXPECT_EQ(world.reporter->counters().passes, 1u);
  EXPECT_THAT(world.device->reports(), IsEmpty());
  EXPECT_EQ(TypeOf(world, pfn), MigrateType::kUnmovable);
}

// Marked before their pageblocks were isolated, or after.
TEST(V12PageblocksTest, BlocksOnTheirWayOfflineAreNotReported) {
  ReportingWorld world(SmallV12(8));
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  const PfnRange range = {blocks[0], blocks[3]};
  world.Free(blocks[0], kSmall);
  std::vector<MigrateType> types;
  {
    LockHolder hold(world.zone().lock());
    types = world.zone().IsolatePageblocks(range);
  }
  world.Free(blocks[1], kSmall);
  world.Free(blocks[2], kSmall);
  world.Free(blocks[3], kSmall);
  EXPECT_EQ(world.marked(), 4u);
  world.Settle();
  EXPECT_THAT(world.device->reported(),
              ElementsAre(RangeOf(blocks[3], kSmall)));
  EXPECT_EQ(world.marked(), 0u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(TypeOf(world, blocks[i]), MigrateType::kIsolate);
  }
  LockHolder hold(world.zone().lock());
  world.zone().RestorePageblocks(range, types);
}

TEST(V12PageblocksTest, AReturnDoesNotWriteOverIsolate) {
  WorldOptions options = SmallV12(8);
  options.report_time = std::nullopt;
  ReportingWorld world(options);
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  const PfnRange range = {blocks[0], blocks[2]};
  world.Free(std::span(blocks).first(2), kSmall);
  world.Settle();
  ASSERT_THAT(world.device->in_flight(), SizeIs(2));
  std::vector<MigrateType> types;
  {
    LockHolder hold(world.zone().lock());
    types = world.zone().IsolatePageblocks(range);
  }
  world.device->End();
  world.Settle();
  EXPECT_EQ(TypeOf(world, blocks[0]), MigrateType::kIsolate);
  EXPECT_EQ(world.allocator->Counts().offlining, range.pages());
  EXPECT_EQ(world.allocator->Allocate(0, kSmall), std::nullopt);
  LockHolder hold(world.zone().lock());
  world.zone().RestorePageblocks(range, types);
}

}  // namespace
}  // namespace guestmm::v12_pageblocks_test
