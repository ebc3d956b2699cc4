#include "src/machine/model/repetitions.h"

#include <gtest/gtest.h>

namespace guestmm::repetitions_test {
namespace {

TEST(RepetitionsTest, AnIdleMachineRepeatsItsTimes) {
  const Repetitions idle =
      Repetitions::Of({100, 101, 99, 100, 102, 98, 100, 101, 250});
  EXPECT_EQ(idle.median, 100);
  EXPECT_EQ(idle.spread, 0.01);
  EXPECT_EQ(idle.outliers, 1u);
  EXPECT_TRUE(idle.IsSteady());
}

TEST(RepetitionsTest, QuartilesFarApartAreNotSteady) {
  const Repetitions busy =
      Repetitions::Of({60, 70, 80, 90, 100, 110, 120, 130, 140});
  EXPECT_EQ(busy.median, 100);
  EXPECT_EQ(busy.spread, 0.4);
  EXPECT_EQ(busy.outliers, 0u);
  EXPECT_FALSE(busy.IsSteady());
}

TEST(RepetitionsTest, ManyOutliersAreNotSteady) {
  const Repetitions busy =
      Repetitions::Of({100, 100, 100, 100, 100, 100, 201, 300, 900});
  EXPECT_EQ(busy.spread, 1.01);
  EXPECT_EQ(busy.outliers, 3u);
  EXPECT_FALSE(busy.IsSteady());
  EXPECT_FALSE(
      (Repetitions{.median = 1, .spread = 0, .outliers = 3}).IsSteady());
}

TEST(RepetitionsTest, LimitsAreSteady) {
  const Repetitions twice = Repetitions::Of({100, 100, 200});
  EXPECT_EQ(twice.median, 100);
  EXPECT_EQ(twice.outliers, 0u);
  EXPECT_TRUE(
      (Repetitions{.median = 1, .spread = 0.3, .outliers = 2}).IsSteady());
}

TEST(RepetitionsTest, TooShortToMeasureIsSteady) {
  EXPECT_TRUE(Repetitions::Of({0, 0, 5}).IsSteady());
}

}  // namespace
}  // namespace guestmm::repetitions_test
