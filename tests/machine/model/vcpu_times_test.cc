#include "src/machine/model/vcpu_times.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "guestmm/base/virtual_time.h"

namespace guestmm::vcpu_times_test {
namespace {

class VcpuTimesTest : public testing::Test {
 protected:
  // A step that takes `ns`; returns what EndStep says.
  int64_t Step(int vcpu, uint64_t ns) {
    times_.BeginStep(vcpu);
    times_.Charge(vcpu, CostKind::kBase, ns);
    return times_.EndStep(vcpu).count();
  }
  void Run(int64_t ns) { time_.RunFor(Nanoseconds(ns)); }

  VirtualTime time_{1};
  VcpuTimes times_{time_, 2};
};

TEST_F(VcpuTimesTest, AStepTakesAsLongAsWhatWasChargedToIt) {
  Run(1000);
  times_.BeginStep(0);
  times_.BeginStep(1);
  times_.Charge(0, CostKind::kBase, 5);
  times_.Charge(0, CostKind::kHook, 7);
  times_.Charge(1, CostKind::kBase, 20);
  EXPECT_EQ(times_.Now(0), Nanoseconds(1012));
  EXPECT_EQ(times_.EndStep(0), Nanoseconds(12));
  EXPECT_EQ(times_.EndStep(1), Nanoseconds(20));
  EXPECT_EQ(times_.Now(0), Nanoseconds(1000));
  EXPECT_EQ(times_.spent(CostKind::kBase), 25u);
  EXPECT_EQ(times_.spent(CostKind::kHook), 7u);
  times_.ForgetSpent();
  EXPECT_EQ(times_.spent(CostKind::kBase), 0u);
}

TEST_F(VcpuTimesTest, AVcpuRunsUntilItsStepIsOver) {
  EXPECT_FALSE(times_.running(0));
  Step(0, 10);
  EXPECT_TRUE(times_.running(0));
  EXPECT_FALSE(times_.running(1));
  Run(9);
  EXPECT_TRUE(times_.running(0));
  Run(1);
  EXPECT_FALSE(times_.running(0));
}

TEST_F(VcpuTimesTest, ADelayIsPartOfTheNextStep) {
  Step(0, 10);
  times_.Delay(0, CostKind::kDiscard, 3);
  times_.Delay(0, CostKind::kDiscard, 4);
  times_.Delay(1, CostKind::kDiscard, 50);  // has the time to spare
  EXPECT_EQ(times_.spent(CostKind::kDiscard), 7u);
  EXPECT_EQ(Step(1, 1), 1);
  EXPECT_EQ(Step(0, 1), 8);
  EXPECT_EQ(Step(0, 1), 1) << "only once";
}

TEST_F(VcpuTimesTest, EveryRunningVcpuIsDelayed) {
  Step(0, 10);
  Step(1, 20);
  times_.DelayRunning(CostKind::kDiscard, 3);
  EXPECT_EQ(times_.spent(CostKind::kDiscard), 6u);
  Run(10);
  times_.DelayRunning(CostKind::kDiscard, 3);
  EXPECT_EQ(times_.spent(CostKind::kDiscard), 9u);
  EXPECT_EQ(Step(0, 0), 3);
  EXPECT_EQ(Step(1, 0), 6);
}

TEST_F(VcpuTimesTest, AKernelThreadRunsOnAnIdleVcpuElseOnEachInTurn) {
  Step(0, 10);
  times_.DelayAnyone(CostKind::kIsolation, 100);
  EXPECT_EQ(times_.spent(CostKind::kIsolation), 0u);
  Step(1, 10);
  times_.DelayAnyone(CostKind::kIsolation, 1);
  times_.DelayAnyone(CostKind::kIsolation, 2);
  times_.DelayAnyone(CostKind::kIsolation, 4);
  EXPECT_EQ(times_.spent(CostKind::kIsolation), 7u);
  EXPECT_EQ(Step(0, 0), 1 + 4);
  EXPECT_EQ(Step(1, 0), 2);
}

TEST_F(VcpuTimesTest, TimeBetweenStepsIsCountedWithoutADelay) {
  Step(0, 10);
  Run(10);
  times_.CountSinceStep(0, CostKind::kStall);
  EXPECT_EQ(times_.spent(CostKind::kStall), 0u);
  Run(5);
  times_.CountSinceStep(0, CostKind::kStall);
  EXPECT_EQ(times_.spent(CostKind::kStall), 5u);
  EXPECT_EQ(Step(0, 1), 1);
  // Its step is not over.
  times_.CountSinceStep(0, CostKind::kStall);
  EXPECT_EQ(times_.spent(CostKind::kStall), 5u);
}

}  // namespace
}  // namespace guestmm::vcpu_times_test
