#include "guestmm/base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace guestmm::random_test {
namespace {

using ::testing::ElementsAre;

template <typename Draw>
std::vector<uint64_t> Draws(int count, Draw draw) {
  std::vector<uint64_t> drawn;
  for (int i = 0; i < count; ++i) drawn.push_back(draw());
  return drawn;
}

// Computed separately, from the authors' description. Changing them would break
// the replay of every seed ever printed.
TEST(RandomTest, TheSequenceIsPinned) {
  Random zero(0);
  EXPECT_THAT(
      Draws(5, [&] { return zero.Next(); }),
      ElementsAre(0x53175d61490b23df, 0x61da6f3dc380d507, 0x5c0fdf91ec9a7bfc,
                  0x02eebf8c3bbe5e1a, 0x7eca04ebaf4a5eea));
  for (int i = 5; i < 999; ++i) zero.Next();
  EXPECT_EQ(zero.Next(), 0x376300fa032f6483);

  Random other(42);
  EXPECT_THAT(
      Draws(3, [&] { return other.Next(); }),
      ElementsAre(0xd0764d4f4476689f, 0x519e4174576f3791, 0xfbe07cfb0c24ed8c));
}

TEST(MixTest, IsPinned) {
  EXPECT_EQ(Mix(0, 0, 0), 0x238275bc38fcbe91);
  EXPECT_EQ(Mix(1, 2, 3), 0xd0734750fde362b3);
  EXPECT_EQ(Mix(3, 2, 1), 0xd62a7f6e291fef64);
}

TEST(RandomTest, BoundedDrawsArePinned) {
  Random random(42);
  EXPECT_THAT(Draws(8, [&] { return random.Below(1000); }),
              ElementsAre(814, 318, 983, 701, 793, 588, 125, 605));
}

TEST(RandomTest, BelowStaysBelow) {
  Random random(1);
  for (const uint64_t bound :
       {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{1000},
        (uint64_t{1} << 63) + 1, ~uint64_t{0}}) {
    for (int i = 0; i < 200; ++i) EXPECT_LT(random.Below(bound), bound);
  }
}

TEST(RandomTest, BetweenIncludesBothEnds) {
  Random random(2);
  std::array<int, 3> seen{};
  for (int i = 0; i < 200; ++i) ++seen.at(random.Between(5, 7) - 5);
  EXPECT_TRUE(
      std::all_of(seen.begin(), seen.end(), [](int n) { return n > 0; }));
  EXPECT_EQ(random.Between(9, 9), 9u);
}

TEST(RandomTest, BetweenMayCoverAllNumbers) {
  Random random(3);
  uint64_t ones = 0;
  for (int i = 0; i < 64; ++i) ones |= random.Between(0, ~uint64_t{0});
  EXPECT_EQ(ones, ~uint64_t{0});
}

// 80,000 draws into 8 bins: 10,000 expected in each, standard deviation 94.
TEST(RandomTest, BelowIsUniform) {
  Random random(4);
  std::array<int, 8> boxes{};
  for (int i = 0; i < 80000; ++i) ++boxes.at(random.Below(boxes.size()));
  for (const int box : boxes) EXPECT_NEAR(box, 10000, 500);
}

// The bound is three quarters of 2^64: draws modulo the bound would hit its
// lower third twice as often, and draws scaled without rejection every third
// number.
TEST(RandomTest, BelowIsUniformWhereShortcutsAreNot) {
  Random random(5);
  const uint64_t bound = (uint64_t{1} << 63) + (uint64_t{1} << 62);
  std::array<int, 3> thirds{};
  std::array<int, 3> residues{};
  for (int i = 0; i < 30000; ++i) {
    const uint64_t drawn = random.Below(bound);
    ++thirds.at(drawn >> 62);
    ++residues.at(drawn % 3);
  }
  for (const int third : thirds) EXPECT_NEAR(third, 10000, 500);
  for (const int residue : residues) EXPECT_NEAR(residue, 10000, 500);
}

TEST(RandomTest, OneInHitsAboutAsOften) {
  Random random(6);
  int hits = 0;
  for (int i = 0; i < 40000; ++i) hits += random.OneIn(4) ? 1 : 0;
  EXPECT_NEAR(hits, 10000, 500);
  EXPECT_TRUE(random.OneIn(1));
}

TEST(RandomTest, AForkIsIndependentOfFurtherUse) {
  Random one(7);
  Random two(7);
  Random fork_of_one = one.Fork();
  Random fork_of_two = two.Fork();
  for (int i = 0; i < 100; ++i) two.Next();
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(fork_of_one.Next(), fork_of_two.Next());
  EXPECT_NE(fork_of_one.Next(), one.Next());
}

TEST(RandomTest, ShuffleKeepsTheItems) {
  std::vector<int> items(50);
  std::iota(items.begin(), items.end(), 0);
  const std::vector<int> before = items;
  Random random(8);
  random.Shuffle(std::span(items));
  EXPECT_NE(items, before);
  EXPECT_TRUE(std::is_permutation(items.begin(), items.end(), before.begin()));
}

TEST(RandomTest, ShuffleReachesEveryOrder) {
  std::array<int, 6> seen{};  // of 3 items
  Random random(9);
  for (int i = 0; i < 6000; ++i) {
    std::array<int, 3> items = {0, 1, 2};
    random.Shuffle(std::span<int>(items));
    ++seen.at(
        static_cast<size_t>(items[0] * 2 + (items[1] > items[2] ? 1 : 0)));
  }
  for (const int order : seen) EXPECT_NEAR(order, 1000, 150);
}

TEST(RandomTest, ShuffleOfNothingOrOneDoesNothing) {
  Random random(10);
  std::vector<int> none;
  std::vector<int> one = {1};
  random.Shuffle(std::span(none));
  random.Shuffle(std::span(one));
  EXPECT_THAT(one, ElementsAre(1));
}

}  // namespace
}  // namespace guestmm::random_test
