#include "guestmm/reporting/scatterlist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/testing/tiny_zone.h"

namespace guestmm::scatterlist_test {
namespace {

using ::testing::ElementsAre;

// Four free blocks of 4 pages.
class ScatterlistTest : public testing::Test {
 protected:
  void ReturnAll() {
    for (IsolatedBlock& block : list_.TakeAll()) zone_.Return(std::move(block));
  }

  TinyZone zone_{16, Order(2)};
  Scatterlist list_{2};
};

TEST_F(ScatterlistTest, IsEmptyAtFirst) {
  EXPECT_TRUE(list_.empty());
  EXPECT_FALSE(list_.full());
  EXPECT_EQ(list_.size(), 0u);
  EXPECT_EQ(list_.capacity(), 2u);
  EXPECT_TRUE(list_.ranges().empty());
}

TEST_F(ScatterlistTest, KeepsTheOrderOfAdding) {
  list_.Add(*zone_.Isolate(8));
  EXPECT_FALSE(list_.full());
  list_.Add(*zone_.Isolate(4));
  EXPECT_TRUE(list_.full());
  EXPECT_EQ(list_.blocks()[0].pfn(), Pfn(8));
  EXPECT_EQ(list_.blocks()[1].pfn(), Pfn(4));
  EXPECT_THAT(
      std::vector<GpaRange>(list_.ranges().begin(), list_.ranges().end()),
      ElementsAre(GpaRange{Gpa(8 * kPageSize), 4 * kPageSize},
                  GpaRange{Gpa(4 * kPageSize), 4 * kPageSize}));
  ReturnAll();
}

TEST_F(ScatterlistTest, IsEmptyAfterTakingAll) {
  list_.Add(*zone_.Isolate(8));
  std::vector<IsolatedBlock> blocks = list_.TakeAll();
  EXPECT_EQ(blocks.size(), 1u);
  EXPECT_TRUE(list_.empty());
  EXPECT_TRUE(list_.ranges().empty());
  EXPECT_TRUE(list_.TakeAll().empty());
  zone_.Return(std::move(blocks[0]));
}

TEST_F(ScatterlistTest, CanBeFilledAgain) {
  list_.Add(*zone_.Isolate(8));
  ReturnAll();
  list_.Add(*zone_.Isolate(0));
  EXPECT_EQ(list_.ranges()[0].gpa, Gpa(0));
  EXPECT_EQ(list_.size(), 1u);
  ReturnAll();
}

// The device reads the ranges after the list was filled: they must not move
// until the list is emptied.
TEST_F(ScatterlistTest, RangesStayWhereTheyAre) {
  list_.Add(*zone_.Isolate(8));
  const GpaRange* const first = list_.ranges().data();
  list_.Add(*zone_.Isolate(4));
  EXPECT_EQ(list_.ranges().data(), first);
  ReturnAll();
}

TEST_F(ScatterlistTest, TakesPartsOfABlock) {
  Scatterlist list(3);
  const std::vector<GpaRange> parts = {{Gpa(8 * kPageSize), kPageSize},
                                       {Gpa(10 * kPageSize), 2 * kPageSize}};
  list.Add(*zone_.Isolate(8), parts);
  EXPECT_EQ(list.size(), 2u);
  EXPECT_EQ(list.blocks().size(), 1u);
  EXPECT_THAT(std::vector<GpaRange>(list.ranges().begin(), list.ranges().end()),
              testing::ElementsAreArray(parts));
  list.Add(*zone_.Isolate(4));
  EXPECT_TRUE(list.full());
  for (IsolatedBlock& block : list.TakeAll()) zone_.Return(std::move(block));
}

using ScatterlistDeathTest = ScatterlistTest;

TEST_F(ScatterlistDeathTest, TakesNoMoreThanItsCapacity) {
  EXPECT_DEATH(
      {
        for (const int pfn : {0, 4, 8}) {
          list_.Add(*zone_.Isolate(static_cast<uint64_t>(pfn)));
        }
      },
      "1 ranges into a scatterlist of 2, which has 2");
}

TEST_F(ScatterlistDeathTest, TakesNoPartOfAnotherBlock) {
  const GpaRange part = {Gpa(11 * kPageSize), 2 * kPageSize};
  EXPECT_DEATH(
      list_.Add(*zone_.Isolate(8), std::span<const GpaRange>(&part, 1)),
      "is not in the block at pfn 0x8");
}

TEST_F(ScatterlistDeathTest, CannotBeForgotten) {
  EXPECT_DEATH(
      {
        Scatterlist forgotten(1);
        forgotten.Add(*zone_.Isolate(8));
      },
      "isolated block at pfn 0x8, order 2, was not returned to its zone");
}

}  // namespace
}  // namespace guestmm::scatterlist_test
