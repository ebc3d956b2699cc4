// Stealing: which type a zone takes blocks from if it has none of the requested
// type, how many, and when the pageblock changes its type (Linux 5.3,
// __rmqueue_fallback, steal_suitable_fallback). Pictures are as in tiny_zone.h;
// a | separates pageblocks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_stealing_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr MigrateType kUnmovable = MigrateType::kUnmovable;
constexpr MigrateType kMovable = MigrateType::kMovable;
constexpr MigrateType kReclaimable = MigrateType::kReclaimable;

// 32 pages in four pageblocks of eight, all initially movable; the free list of
// order 3 is 24 16 8 0.
class ZoneStealingTest : public ::testing::Test {
 protected:
  explicit ZoneStealingTest(int max_order = 3)
      : zone_({.span = {Pfn(0), Pfn(32)},
               .memory = {{Pfn(0), Pfn(32)}},
               .max_order = Order(max_order),
               .pageblock_order = Order(3)}) {}
  ~ZoneStealingTest() override {
    const absl::Status status = zone_.CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }

  std::string Picture() const {
    std::string picture = zone_.Picture();
    for (const size_t at : {24, 16, 8}) picture.insert(at, "|");
    return picture;
  }
  // Allocates all 32 pages one by one, with a type for each pageblock.
  void TakeAll(const std::vector<MigrateType>& types) {
    // Blocks are allocated from the last pageblock to the first.
    for (size_t i = types.size(); i-- > 0;) {
      ASSERT_EQ(zone_.Allocate(3, types[i]), Pfn(8 * i));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      zone_.Free(8 * i, 3);
      for (uint64_t page = 0; page < 8; ++page) {
        ASSERT_EQ(zone_.Allocate(0, types[i]), Pfn(8 * i + page));
      }
    }
  }

  TinyZone zone_;
};

// How much

TEST_F(ZoneStealingTest, AWholePageblockChangesItsType) {
  EXPECT_EQ(zone_.Types(), "MMMM");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(24));
  EXPECT_EQ(Picture(), "F-------|F-------|F-------|AFF-F---");
  EXPECT_EQ(zone_.Types(), "MMMU");
  EXPECT_THAT(zone_.List(0, kUnmovable), ElementsAre(25));
  EXPECT_THAT(zone_.List(2, kUnmovable), ElementsAre(28));
  EXPECT_THAT(zone_.List(3, kMovable), ElementsAre(16, 8, 0));
  EXPECT_EQ(zone_->steals(), 1);
  EXPECT_EQ(zone_->stolen_pageblocks(), 1);
}

TEST_F(ZoneStealingTest, WhatIsLeftOfItServesTheTypeFromThenOn) {
  zone_.Allocate(0, kUnmovable);
  EXPECT_EQ(zone_.Allocate(2, kUnmovable), Pfn(28));
  EXPECT_EQ(zone_->steals(), 1);
}

// One block of two pageblocks: both change.
class ZoneStealingOfLargeBlocksTest : public ZoneStealingTest {
 protected:
  ZoneStealingOfLargeBlocksTest() : ZoneStealingTest(4) {}
};

TEST_F(ZoneStealingOfLargeBlocksTest, EveryPageblockOfABlockChangesItsType) {
  EXPECT_EQ(zone_.Allocate(2, kReclaimable), Pfn(16));
  EXPECT_EQ(Picture(), "F-------|--------|A---F---|F-------");
  EXPECT_EQ(zone_.Types(), "MMRR");
  EXPECT_EQ(zone_->steals(), 1);
  EXPECT_EQ(zone_->stolen_pageblocks(), 2);
}

// Takes the largest block, so that one pageblock is mixed rather than many:
// [24, 32) although [4, 8) would suffice.
TEST_F(ZoneStealingTest, TheLargestBlockIsTakenFirst) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  for (uint64_t page = 4; page < 8; ++page) zone_.Free(page, 0);
  for (uint64_t page = 24; page < 32; ++page) zone_.Free(page, 0);
  EXPECT_EQ(Picture(), "AAAAF---|AAAAAAAA|AAAAAAAA|F-------");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(24));
  EXPECT_EQ(zone_.Types(), "MMMU");
}

// Two free pages in a movable pageblock become unmovable; the other six, in use
// by movable requests, are more than half, so the pageblock stays movable.
TEST_F(ZoneStealingTest, WithLessThanHalfOfAPageblockItKeepsItsType) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  zone_.Free(1, 0);
  zone_.Free(6, 0);
  EXPECT_EQ(Picture(), "AFAAAAFA|AAAAAAAA|AAAAAAAA|AAAAAAAA");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(6));
  EXPECT_EQ(zone_.Types(), "MMMM");
  EXPECT_THAT(zone_.List(0, kUnmovable), ElementsAre(1));
  EXPECT_THAT(zone_.List(0, kMovable), IsEmpty());
  EXPECT_EQ(zone_->stolen_pageblocks(), 0);
}

TEST_F(ZoneStealingTest, WithHalfOfAPageblockFreeItIsTaken) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  for (const uint64_t page : {1, 3, 4, 6}) zone_.Free(page, 0);
  EXPECT_EQ(Picture(), "AFAFFAFA|AAAAAAAA|AAAAAAAA|AAAAAAAA");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(6));
  EXPECT_EQ(zone_.Types(), "UMMM");
  // In ascending order, each to the head.
  EXPECT_THAT(zone_.List(0, kUnmovable), ElementsAre(4, 3, 1));
}

// Pages in use that may be of the new type count too. For an unmovable request
// these are, in a movable pageblock, all that are not movable.
TEST_F(ZoneStealingTest, PagesInUseThatAreNotMovableCountAsUnmovable) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  // Two single pages become unmovable, and stay in use.
  for (const uint64_t page : {1, 6}) {
    zone_.Free(page, 0);
    ASSERT_EQ(zone_.Allocate(0, kUnmovable), Pfn(page));
  }
  EXPECT_EQ(zone_.Types(), "MMMM");
  zone_.Free(3, 0);
  ASSERT_EQ(zone_.Allocate(0, kReclaimable), Pfn(3));
  EXPECT_EQ(zone_.Types(), "MMMM");  // 1 free, 2 in use: 3 of 8
  zone_.Free(4, 0);
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(4));
  EXPECT_EQ(zone_.Types(), "UMMM");  // 1 free, 3 in use: a half
}

// A page in use may be of either type, so it counts for neither.
TEST_F(ZoneStealingTest, BetweenUnmovableAndReclaimableOnlyFreePagesCount) {
  TakeAll({kUnmovable, kMovable, kMovable, kMovable});
  for (const uint64_t page : {1, 3, 6}) zone_.Free(page, 0);
  EXPECT_EQ(zone_.Allocate(0, kReclaimable), Pfn(6));
  EXPECT_EQ(zone_.Types(), "UMMM");  // 3 free of 8
  EXPECT_THAT(zone_.List(0, kReclaimable), ElementsAre(3, 1));
}

// Movable requests

// Movable pages can leave again, so one of them does not convert a pageblock:
// it splits the smallest block of another type, and the rest keeps its type.
TEST_F(ZoneStealingTest, AMovablePageTakesASmallBlockAlone) {
  TakeAll({kUnmovable, kUnmovable, kUnmovable, kUnmovable});
  for (const uint64_t page : {1, 3, 4, 6}) zone_.Free(page, 0);
  EXPECT_EQ(zone_.Allocate(0, kMovable), Pfn(6));
  EXPECT_EQ(zone_.Types(), "UUUU");
  EXPECT_THAT(zone_.List(0, kUnmovable), ElementsAre(4, 3, 1));
  EXPECT_THAT(zone_.List(0, kMovable), IsEmpty());
}

// Pageblocks of 16: a pair is too small to convert its pageblock, since 1 < 4 /
// 2; a block of four is not.
TEST(ZoneStealingOfMovableTest, TheSmallestBlockWhereNoneIsLarge) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(4),
                 .pageblock_order = Order(4)});
  zone.AllocatePages(16, kUnmovable);
  EXPECT_EQ(zone.Types(), "U");
  for (const uint64_t page : {2, 3, 9}) zone.Free(page, 0);
  EXPECT_EQ(zone.Picture(), "AAF-AAAAAFAAAAAA");
  EXPECT_EQ(zone.Allocate(0, kMovable), Pfn(9));
  EXPECT_EQ(zone.Types(), "U");
  EXPECT_EQ(zone.Allocate(0, kMovable), Pfn(2));
  EXPECT_THAT(zone.List(0, kMovable), ElementsAre(3));
}

TEST(ZoneStealingOfMovableTest, ALargeBlockTakesItsPageblockAlong) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(4),
                 .pageblock_order = Order(4)});
  zone.AllocatePages(16, kUnmovable);
  for (const uint64_t page : {0, 4, 5, 6, 7, 9, 11, 13}) zone.Free(page, 0);
  EXPECT_EQ(zone.Picture(), "FAAAF---AFAFAFAA");
  EXPECT_EQ(zone.Allocate(0, kMovable), Pfn(13));
  EXPECT_EQ(zone.Types(), "M");
  EXPECT_THAT(zone.List(2, kMovable), ElementsAre(4));
  EXPECT_THAT(zone.List(0, kMovable), ElementsAre(11, 9, 0));
  EXPECT_THAT(zone.List(0, kUnmovable), IsEmpty());
}

// Which type

struct FallbackCase {
  MigrateType wanted;
  MigrateType first;
  MigrateType second;
};
class ZoneFallbackTest : public ::testing::TestWithParam<FallbackCase> {};

TEST_P(ZoneFallbackTest, IsAskedInTheKernelsOrder) {
  const auto& [wanted, first, second] = GetParam();
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(3),
                 .pageblock_order = Order(3)});
  // A free pageblock of each of the other types.
  ASSERT_EQ(zone.Allocate(3, second), Pfn(8));
  ASSERT_EQ(zone.Allocate(3, first), Pfn(0));
  zone.Free(0, 3);
  zone.Free(8, 3);
  EXPECT_EQ(zone.Allocate(3, wanted), Pfn(0));
  EXPECT_EQ(zone.Allocate(3, wanted), Pfn(8));
}

INSTANTIATE_TEST_SUITE_P(
    Types, ZoneFallbackTest,
    ::testing::Values(FallbackCase{kUnmovable, kReclaimable, kMovable},
                      FallbackCase{kMovable, kReclaimable, kUnmovable},
                      FallbackCase{kReclaimable, kUnmovable, kMovable}),
    [](const auto& param) { return std::string(Name(param.param.wanted)); });

// Size before type: reclaimable comes first, but has only one page.
TEST_F(ZoneStealingTest, ALargerBlockOfTheSecondChoiceComesFirst) {
  TakeAll({kReclaimable, kMovable, kMovable, kMovable});
  zone_.Free(0, 0);
  zone_.Free(8, 0);
  zone_.Free(9, 0);
  EXPECT_EQ(Picture(), "FAAAAAAA|F-AAAAAA|AAAAAAAA|AAAAAAAA");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable), Pfn(8));
}

TEST_F(ZoneStealingTest, NoneWhereOthersHaveNothingLargeEnough) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  zone_.Free(0, 0);
  EXPECT_EQ(zone_.Allocate(1, kUnmovable), std::nullopt);
  EXPECT_EQ(zone_.Types(), "MMMM");
  EXPECT_THAT(zone_.List(0, kMovable), ElementsAre(0));
  EXPECT_EQ(zone_->steals(), 0);
}

// Not if types would mix (ALLOC_NOFRAGMENT)

TEST_F(ZoneStealingTest, AvoidingToMixOnlyWholePageblocksAreTaken) {
  TakeAll({kMovable, kMovable, kMovable, kMovable});
  for (uint64_t page = 4; page < 8; ++page) zone_.Free(page, 0);
  EXPECT_EQ(zone_.Allocate(0, kUnmovable, Mixing::kAvoid), std::nullopt);
  EXPECT_EQ(zone_->steals(), 0);
  for (uint64_t page = 8; page < 16; ++page) zone_.Free(page, 0);
  EXPECT_EQ(Picture(), "AAAAF---|F-------|AAAAAAAA|AAAAAAAA");
  EXPECT_EQ(zone_.Allocate(0, kUnmovable, Mixing::kAvoid), Pfn(8));
  EXPECT_EQ(zone_.Types(), "MUMM");
}

// At the ends of a zone (move_freepages_block)

TEST(ZoneStealingAtEdgesTest, BeforeTheBlockNothingGoesAlongAtTheStart) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(3), Pfn(16)}},
                 .max_order = Order(3),
                 .pageblock_order = Order(3)});
  EXPECT_EQ(zone.Picture(), "...FF---F-------");
  zone.Allocate(3, kMovable);
  // The largest is [4, 8); page 3 before it stays movable.
  EXPECT_EQ(zone.Allocate(0, kUnmovable), Pfn(4));
  EXPECT_THAT(zone.List(0, kMovable), ElementsAre(3));
  // 4 free pages and the hole of 3, which may be of the new type: 7 of 8.
  EXPECT_EQ(zone.Types(), "UM");
}

TEST(ZoneStealingAtEdgesTest, APageblockCutByTheEndIsLeftAlone) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(15)}},
                 .max_order = Order(3),
                 .pageblock_order = Order(3)});
  EXPECT_EQ(zone.Picture(), "F-------F---F-F.");
  zone.Allocate(3, kMovable);
  EXPECT_EQ(zone.Allocate(0, kUnmovable), Pfn(8));
  EXPECT_EQ(zone.Types(), "MM");
  EXPECT_THAT(zone.List(1, kMovable), ElementsAre(12));
  EXPECT_THAT(zone.List(0, kMovable), ElementsAre(14));
  EXPECT_THAT(zone.List(1, kUnmovable), ElementsAre(10));
}

// A block is freed to the lists of its pageblock's type, whatever its
// request's.
TEST_F(ZoneStealingTest, AFreedPageIsOfThePageblocksType) {
  TakeAll({kUnmovable, kMovable, kMovable, kMovable});
  zone_.Free(3, 0);
  ASSERT_EQ(zone_.Allocate(0, kMovable), Pfn(3));
  zone_.Free(3, 0);
  EXPECT_THAT(zone_.List(0, kUnmovable), ElementsAre(3));
}

}  // namespace
}  // namespace guestmm::zone_stealing_test
