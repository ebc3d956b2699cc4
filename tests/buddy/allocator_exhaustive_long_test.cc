// As allocator_exhaustive_test.cc, with programs one operation longer.

#include <gtest/gtest.h>

#include "tests/testing/every_program.h"

namespace guestmm::buddy {
namespace {

TEST(AllocatorExhaustiveLongTest, EveryProgramOfLength4) {
  RunEveryProgram(kBareWorld, 4);
  RunEveryProgram(kCachedWorld, 4);
}

TEST(AllocatorExhaustiveLongTest, EveryStateThatZonesReachIn7Steps) {
  EXPECT_GT(RunToEveryState(kBareWorld, 7), 1000);
}

TEST(AllocatorExhaustiveLongTest, EveryStateThatPerCpuListsReachIn6Steps) {
  EXPECT_GT(RunToEveryState(kCachedWorld, 6), 1000);
}

TEST(AllocatorExhaustiveLongTest, EveryStateThatTypesReachIn4Steps) {
  EXPECT_GT(RunToEveryState(kTypesWorld, 4), 1000);
}

TEST(AllocatorExhaustiveLongTest, EveryStateThatReportingReachesIn4Steps) {
  EXPECT_GT(RunToEveryState(kReportingWorld, 4), 1000);
}

TEST(AllocatorExhaustiveLongTest, EveryStateThatHotplugReachesIn4Steps) {
  EXPECT_GT(RunToEveryState(kTinyHotplugWorld, 4), 1000);
}

}  // namespace
}  // namespace guestmm::buddy
