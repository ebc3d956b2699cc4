// Offlining pageblocks, and removing memory from its zone. Pictures are as in
// tiny_zone.h.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_offlining_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr MigrateType kUnmovable = MigrateType::kUnmovable;
constexpr MigrateType kMovable = MigrateType::kMovable;
constexpr MigrateType kIsolate = MigrateType::kIsolate;

// 32 pages in four pageblocks of eight, blocks of at most 16.
class ZoneOffliningTest : public ::testing::Test {
 protected:
  ~ZoneOffliningTest() override {
    const absl::Status status = zone_.CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }

  std::vector<MigrateType> IsolatePageblocks(PfnRange range) {
    LockHolder hold(zone_->lock());
    return zone_->IsolatePageblocks(range);
  }
  void RestorePageblocks(PfnRange range,
                         const std::vector<MigrateType>& types) {
    LockHolder hold(zone_->lock());
    zone_->RestorePageblocks(range, types);
  }
  Zone::Busy FindBusy(PfnRange range) {
    LockHolder hold(zone_->lock());
    return zone_->FindBusy(range);
  }
  void RemoveMemory(PfnRange range) {
    LockHolder hold(zone_->lock());
    zone_->RemoveMemory(range);
  }

  static constexpr PfnRange kLow = {Pfn(0), Pfn(16)};
  static constexpr PfnRange kHigh = {Pfn(16), Pfn(32)};

  TinyZone zone_{{.span = {Pfn(0), Pfn(32)},
                  .memory = {{Pfn(0), Pfn(32)}},
                  .max_order = Order(4),
                  .pageblock_order = Order(3)}};
};

TEST_F(ZoneOffliningTest, FreePagesCannotBeAllocatedAndDoNotCount) {
  EXPECT_THAT(IsolatePageblocks(kHigh), ElementsAre(kMovable, kMovable));
  EXPECT_EQ(zone_.Types(), "MMII");
  EXPECT_EQ(zone_->free_pages(), PageCount(16));
  EXPECT_EQ(zone_->offlining_pages(), PageCount(16));
  EXPECT_EQ(zone_->managed_pages(), PageCount(32));
  EXPECT_THAT(zone_.List(4, kIsolate), ElementsAre(16));
  EXPECT_EQ(zone_.Allocate(4), Pfn(0));
  EXPECT_EQ(zone_.Allocate(0), std::nullopt);
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), std::nullopt);
  EXPECT_FALSE(zone_->WatermarkOk(Order(0), PageCount(0)));
}

// A list that has only blocks being offlined serves no request.
TEST_F(ZoneOffliningTest, TheWatermarkFindsNoBlockThatIsOnItsWay) {
  IsolatePageblocks(kHigh);
  for (int i = 0; i < 2; ++i) zone_.Allocate(2);
  EXPECT_EQ(zone_.Picture(), "A---A---F-------F---------------");
  EXPECT_TRUE(zone_->WatermarkOk(Order(3), PageCount(0)));
  EXPECT_FALSE(zone_->WatermarkOk(Order(4), PageCount(0)));
}

TEST_F(ZoneOffliningTest, PagesFreedThereStayIsolated) {
  ASSERT_EQ(zone_.Allocate(3), Pfn(16));
  ASSERT_EQ(zone_.Allocate(0), Pfn(24));
  IsolatePageblocks(kHigh);
  EXPECT_EQ(zone_->offlining_pages(), PageCount(7));
  zone_.Free(24, 0);
  EXPECT_THAT(zone_.List(3, kIsolate), ElementsAre(24));
  zone_.Free(16, 3);
  EXPECT_THAT(zone_.List(4, kIsolate), ElementsAre(16));
  EXPECT_EQ(zone_->free_pages(), PageCount(16));
  EXPECT_EQ(zone_->offlining_pages(), PageCount(16));
}

// Two pageblocks make one block of the largest order. If only one of them is
// being offlined (which only a test does), no block spans both.
TEST(ZoneOffliningMergeTest, BlocksBeingOfflinedDoNotMergeWithOthers) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(4),
                 .pageblock_order = Order(3)});
  for (int i = 0; i < 2; ++i) zone.Allocate(3);
  LockHolder hold(zone->lock());
  zone->IsolatePageblocks({Pfn(8), Pfn(16)});
  EXPECT_EQ(zone->Free(Pfn(8), Order(3)), nullptr);
  EXPECT_EQ(zone->Free(Pfn(0), Order(3)), nullptr);
  EXPECT_EQ(zone->FreeBlockAt(Pfn(0)), Order(3));
  EXPECT_EQ(zone->FreeBlockAt(Pfn(8)), Order(3));
  EXPECT_TRUE(zone->CheckInvariants().ok());
}

// A page that was cached while its pageblock was movable is returned while the
// pageblock is being offlined: the pageblock's type counts
// (isolated_pageblocks).
TEST_F(ZoneOffliningTest, ACachedPageGoesWhereItsPageblockIs) {
  ASSERT_EQ(zone_.Allocate(4), Pfn(16));
  zone_.Free(16, 4);
  std::array<Pfn, 1> pages;
  LockHolder hold(zone_->lock());
  ASSERT_EQ(zone_->AllocateBulk(pages, Order(0), kMovable, Mixing::kAllow), 1);
  ASSERT_EQ(pages[0], Pfn(16));
  zone_->IsolatePageblocks(kHigh);
  EXPECT_EQ(zone_->FreeBulk(
                {{{.blocks = pages, .order = Order(0), .type = kMovable}}}),
            nullptr);
  EXPECT_EQ(zone_->offlining_pages(), PageCount(16));
}

TEST_F(ZoneOffliningTest, BlocksBeingOfflinedAreNotIsolated) {
  IsolatePageblocks(kHigh);
  EXPECT_EQ(zone_.FreeBlockAt(16), Order(4));
  EXPECT_FALSE(zone_.Isolate(16).has_value());
}

TEST_F(ZoneOffliningTest, ABlockThatTheHostReturnsStaysThere) {
  ASSERT_EQ(zone_.Allocate(0), Pfn(16));
  std::optional<IsolatedBlock> block = zone_.Isolate(24);
  IsolatePageblocks(kHigh);
  EXPECT_EQ(zone_.Return(std::move(*block)), Order(3));
  EXPECT_THAT(zone_.List(3, kIsolate), ElementsAre(24));
}

TEST_F(ZoneOffliningTest, RestoredPageblocksHaveTheirTypesAgain) {
  ASSERT_EQ(zone_.Allocate(3, kUnmovable), Pfn(16));
  EXPECT_EQ(zone_.Types(), "MMUU");
  zone_.Free(16, 3);
  const auto types = IsolatePageblocks(kHigh);
  EXPECT_THAT(types, ElementsAre(kUnmovable, kUnmovable));
  RestorePageblocks(kHigh, types);
  EXPECT_EQ(zone_.Types(), "MMUU");
  EXPECT_EQ(zone_->free_pages(), PageCount(32));
  EXPECT_EQ(zone_->offlining_pages(), PageCount(0));
  EXPECT_THAT(zone_.List(4, kUnmovable), ElementsAre(16));
}

TEST_F(ZoneOffliningTest, FindsTheFirstBlockInUseAndTheFirstIsolated) {
  for (int i = 0; i < 2; ++i) zone_.Allocate(2);
  std::optional<IsolatedBlock> block = zone_.Isolate(24);
  EXPECT_EQ(zone_.Picture(), "F---------------A---A---I-------");
  EXPECT_EQ(FindBusy(kLow).in_use, std::nullopt);
  EXPECT_EQ(FindBusy(kLow).isolated, std::nullopt);
  EXPECT_EQ(FindBusy(kHigh).in_use, Pfn(16));
  EXPECT_EQ(FindBusy(kHigh).isolated, Pfn(24));
  zone_.Return(std::move(*block));
}

TEST_F(ZoneOffliningTest, RemovedMemoryIsNoLongerTheZones) {
  IsolatePageblocks(kHigh);
  RemoveMemory(kHigh);
  EXPECT_EQ(zone_.Picture(), "F---------------................");
  EXPECT_EQ(zone_.Types(), "MM..");
  EXPECT_EQ(zone_->span(), kLow);
  EXPECT_EQ(zone_->managed_pages(), PageCount(16));
  EXPECT_EQ(zone_->offlining_pages(), PageCount(0));
  EXPECT_THAT(zone_.List(4, kIsolate), IsEmpty());
}

TEST_F(ZoneOffliningTest, FromTheMiddleItLeavesAHoleAndComesBack) {
  zone_->AddMemory({Pfn(32), Pfn(48)});
  IsolatePageblocks(kHigh);
  RemoveMemory(kHigh);
  EXPECT_EQ(zone_->span(), (PfnRange{Pfn(0), Pfn(48)}));
  {
    LockHolder hold(zone_->lock());
    EXPECT_THAT(zone_->ranges(), ElementsAre(kLow, PfnRange{Pfn(32), Pfn(48)}));
  }
  zone_->AddMemory(kHigh);
  LockHolder hold(zone_->lock());
  EXPECT_THAT(zone_->ranges(), ElementsAre(PfnRange{Pfn(0), Pfn(48)}));
}

// Memory that was unmovable is movable when it is onlined again.
TEST_F(ZoneOffliningTest, MemoryComesBackMovable) {
  zone_.Allocate(4, kUnmovable);
  zone_.Free(16, 4);
  IsolatePageblocks(kHigh);
  RemoveMemory(kHigh);
  zone_->AddMemory(kHigh);
  EXPECT_EQ(zone_.Types(), "MMMM");
  EXPECT_EQ(zone_->free_pages(), PageCount(32));
}

TEST(ZoneOffliningDeathTest, MemoryInUseCannotBeRemoved) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(0), Pfn(16)}}, Order(3));
  ASSERT_EQ(zone.Allocate(0), Pfn(8));
  LockHolder hold(zone->lock());
  zone->IsolatePageblocks({Pfn(8), Pfn(16)});
  EXPECT_DEATH(zone->RemoveMemory({Pfn(8), Pfn(16)}),
               "pfn 0x8 must be free to be removed");
}

TEST(ZoneOffliningDeathTest, MemoryIsRemovedFromIsolatedPageblocksOnly) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(0), Pfn(16)}}, Order(3));
  LockHolder hold(zone->lock());
  EXPECT_DEATH(zone->RemoveMemory({Pfn(8), Pfn(16)}), "kIsolate");
}

}  // namespace
}  // namespace guestmm::zone_offlining_test
