// Runs every program up to a given length over 16 pages: allocations only; with
// per-CPU lists, also 6.12's; with all request types; with marks and returns to
// the tail; with hotplug and pins. allocator_exhaustive_long_test.cc runs
// programs one operation longer.

#include <gtest/gtest.h>

#include "tests/testing/every_program.h"

namespace guestmm::buddy {
namespace {

TEST(AllocatorExhaustiveTest, EveryProgramOfLength3) {
  RunEveryProgram(kBareWorld, 3);
  RunEveryProgram(kCachedWorld, 3);
}

TEST(AllocatorExhaustiveTest, EveryStateThatZonesReachIn5Steps) {
  EXPECT_GT(RunToEveryState(kBareWorld, 5), 100);
}

TEST(AllocatorExhaustiveTest, EveryStateThatPerCpuListsReachIn5Steps) {
  EXPECT_GT(RunToEveryState(kCachedWorld, 5), 300);
}

TEST(AllocatorExhaustiveTest, EveryStateThatTheListsOf6_12ReachIn5Steps) {
  EXPECT_GT(RunToEveryState(kTiny612World, 5), 300);
}

TEST(AllocatorExhaustiveTest, EveryStateThatTypesReachIn3Steps) {
  EXPECT_GT(RunToEveryState(kTypesWorld, 3), 100);
}

TEST(AllocatorExhaustiveTest, EveryStateThatReportingReachesIn3Steps) {
  EXPECT_GT(RunToEveryState(kReportingWorld, 3), 300);
}

TEST(AllocatorExhaustiveTest, EveryStateThatHotplugReachesIn3Steps) {
  EXPECT_GT(RunToEveryState(kTinyHotplugWorld, 3), 100);
}

}  // namespace
}  // namespace guestmm::buddy
