// The free-list placement of blocks: by the rules of 5.3, of 6.1, and shuffled.

#include "guestmm/buddy/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "tests/testing/tiny_zone.h"

namespace guestmm::placement_test {
namespace {

using ::testing::ElementsAre;

constexpr MigrateType kUnmovable = MigrateType::kUnmovable;

TinyZone::Options FourPageblocks(PlacementOptions placement) {
  return {.span = {Pfn(0), Pfn(32)},
          .memory = {{Pfn(0), Pfn(32)}},
          .max_order = Order(3),
          .pageblock_order = Order(3),
          .placement = placement};
}

constexpr PlacementOptions k53 = {.rules = KernelVersion::kV5_3};
constexpr PlacementOptions k61 = {.rules = KernelVersion::kV6_1};

// Memory added first is allocated first in 6.1, and last in 5.3.
TEST(PlacementTest, NewMemoryGoesToTheHeadIn5_3AndToTheTailIn6_1) {
  EXPECT_THAT(TinyZone(FourPageblocks(k53)).List(3), ElementsAre(24, 16, 8, 0));
  EXPECT_THAT(TinyZone(FourPageblocks(k61)).List(3), ElementsAre(0, 8, 16, 24));
}

TEST(PlacementTest, AFreedBlockGoesToTheHeadInBoth) {
  for (const PlacementOptions& placement : {k53, k61}) {
    TinyZone zone(FourPageblocks(placement));
    const uint64_t first = zone.Allocate(3)->value();
    const uint64_t second = zone.Allocate(3)->value();
    zone.Free(second, 3);
    zone.Free(first, 3);
    EXPECT_THAT(zone.List(3).front(), first);
  }
}

TEST(PlacementTest, ABlockLikelyToMergeGoesToTheTailInBoth) {
  for (const PlacementOptions& placement : {k53, k61}) {
    TinyZone zone({.span = {Pfn(0), Pfn(16)},
                   .memory = {{Pfn(0), Pfn(16)}},
                   .placement = placement});
    zone.AllocatePages(8);
    for (const uint64_t pfn : {5, 2, 3, 0}) zone.Free(pfn, 0);
    EXPECT_THAT(zone.List(0), ElementsAre(5, 0));
  }
}

// Returned blocks are allocated last, so that faults in the host are deferred.
TEST(PlacementTest, ReturnedBlocksGoToTheTailIn6_1) {
  TinyZone zone5_3(FourPageblocks(k53));
  zone5_3.Return(std::move(*zone5_3.Isolate(16)));
  EXPECT_THAT(zone5_3.List(3), ElementsAre(16, 24, 8, 0));
  TinyZone zone6_1(FourPageblocks(k61));
  zone6_1.Return(std::move(*zone6_1.Isolate(8)));
  EXPECT_THAT(zone6_1.List(3), ElementsAre(0, 16, 24, 8));
}

// Unmovable requests take the pageblock [0, 8), where 1, 4 and 6 are free
// besides 3, which is unmovable already.
TEST(PlacementTest, StolenBlocksGoToTheTailIn6_1) {
  for (const PlacementOptions& placement : {k53, k61}) {
    TinyZone zone({.span = {Pfn(0), Pfn(8)},
                   .memory = {{Pfn(0), Pfn(8)}},
                   .max_order = Order(3),
                   .pageblock_order = Order(3),
                   .placement = placement});
    zone.AllocatePages(8);
    for (const uint64_t page : {1, 3, 4, 6}) zone.Free(page, 0);
    EXPECT_THAT(zone.List(0), ElementsAre(6, 4, 3, 1));
    const bool is5_3 = placement.rules == KernelVersion::kV5_3;
    // All four move, ascending; the first of the list is allocated.
    EXPECT_EQ(zone.Allocate(0, kUnmovable), Pfn(is5_3 ? 6 : 1));
    if (is5_3) {
      EXPECT_THAT(zone.List(0, kUnmovable), ElementsAre(4, 3, 1));
    } else {
      EXPECT_THAT(zone.List(0, kUnmovable), ElementsAre(3, 4, 6));
    }
  }
}

// Shuffle

std::vector<uint64_t> ShuffledList(uint64_t seed) {
  TinyZone shuffled({.span = {Pfn(0), Pfn(256)},
                     .memory = {{Pfn(0), Pfn(256)}},
                     .max_order = Order(2),
                     .placement = {.shuffle_seed = seed}});
  EXPECT_TRUE(shuffled.CheckInvariants().ok());
  return shuffled.List(2);
}

TEST(ShuffleTest, BlocksOfTheLargestOrderAreInitiallyShuffled) {
  const std::vector<uint64_t> list = ShuffledList(1);
  std::vector<uint64_t> sorted = list;
  std::sort(sorted.begin(), sorted.end());
  std::vector<uint64_t> all;
  for (uint64_t pfn = 0; pfn < 256; pfn += 4) all.push_back(pfn);
  EXPECT_EQ(sorted, all);
  EXPECT_FALSE(std::is_sorted(list.begin(), list.end()));
  EXPECT_FALSE(std::is_sorted(list.rbegin(), list.rend()));
}

TEST(ShuffleTest, TheSeedDecides) {
  EXPECT_EQ(ShuffledList(1), ShuffledList(1));
  EXPECT_NE(ShuffledList(1), ShuffledList(2));
}

// To the head or to the tail: twenty frees include both.
TEST(ShuffleTest, AFreedBlockOfTheLargestOrderGoesToEitherEnd) {
  TinyZone zone({.span = {Pfn(0), Pfn(32)},
                 .memory = {{Pfn(0), Pfn(32)}},
                 .max_order = Order(2),
                 .placement = {.shuffle_seed = 1}});
  int heads = 0;
  for (int i = 0; i < 20; ++i) {
    const uint64_t pfn = zone.Allocate(2)->value();
    zone.Free(pfn, 2);
    const std::vector<uint64_t> list = zone.List(2);
    ASSERT_TRUE(list.front() == pfn || list.back() == pfn);
    if (list.front() == pfn) ++heads;
  }
  EXPECT_GT(heads, 0);
  EXPECT_LT(heads, 20);
}

TEST(ShuffleTest, SmallerBlocksGoWhereTheyWouldWithoutIt) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .placement = {.shuffle_seed = 1}});
  zone.AllocatePages(8);
  for (const uint64_t pfn : {5, 2, 3, 0}) zone.Free(pfn, 0);
  EXPECT_THAT(zone.List(0), ElementsAre(5, 0));
}

}  // namespace
}  // namespace guestmm::placement_test
