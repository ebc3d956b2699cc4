#include "src/experiment/density/guest_draws.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>

namespace guestmm::guest_draws_test {
namespace {

TEST(GuestDrawsTest, EachValueOfEachGuestAndSeedIsItsOwn) {
  std::set<uint64_t> values;
  for (const uint64_t seed : {1, 2}) {
    DensitySetup setup;
    setup.options.seed = seed;
    for (int index = 0; index < 4; ++index) {
      const GuestDraws draws(setup, index);
      values.insert({draws.size, draws.workload, draws.idle});
      const GuestDraws again(setup, index);
      EXPECT_EQ(again.size, draws.size);
      EXPECT_EQ(again.workload, draws.workload);
      EXPECT_EQ(again.idle, draws.idle);
    }
  }
  EXPECT_EQ(values.size(), 2u * 4 * 3);
}

TEST(GuestDrawsTest, AWorkloadIsOfItsMinimumToAllThatIsFree) {
  DensitySetup setup;
  setup.workload_min_bytes = 100;
  uint64_t least = 1000;
  uint64_t most = 0;
  for (int index = 0; index < 200; ++index) {
    const uint64_t bytes = GuestDraws(setup, index).WorkloadBytes(setup, 103);
    least = std::min(least, bytes);
    most = std::max(most, bytes);
  }
  EXPECT_EQ(least, 100u);
  EXPECT_EQ(most, 103u);
  EXPECT_EQ(GuestDraws(setup, 0).WorkloadBytes(setup, 100), 100u);
  EXPECT_EQ(GuestDraws(setup, 0).WorkloadBytes(setup, 30), 30u)
      << "a guest with less free gets what there is";
}

}  // namespace
}  // namespace guestmm::guest_draws_test
