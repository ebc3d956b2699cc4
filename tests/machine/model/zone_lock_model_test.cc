#include "src/machine/model/zone_lock_model.h"

#include <gtest/gtest.h>

#include <memory>

#include "guestmm/base/virtual_time.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::zone_lock_model_test {
namespace {

constexpr Order kLarge(2);
constexpr CostModel kCosts = {.zone_visit = 100,
                              .zone_block = 10,
                              .reporter_hold = 1000,
                              .reporter_look = 0,
                              .reporter_isolate = 0,
                              .reporter_return = 0};

class ZoneLockModelTest : public testing::Test {
 protected:
  // Allocates a block on the vCPU in a step of its own.
  void Step(int vcpu) {
    times_.BeginStep(vcpu);
    locks_.OnStep(vcpu);
    allocator_->Allocate(vcpu, kLarge);
    locks_.OnVcpuUsedAllocator(vcpu);
    times_.EndStep(vcpu);
  }
  // The reporter holds the zone's lock from now on, for 1000 ns.
  void HoldByReporter() {
    Zone& zone = allocator_->zone(0, ZoneType::kDma);
    LockHolder hold(zone.lock());
    locks_.OnUnlock(zone, {});
  }
  uint64_t base() const { return times_.spent(CostKind::kBase); }
  uint64_t isolation() const { return times_.spent(CostKind::kIsolation); }

  VirtualTime time_{1};
  const std::unique_ptr<PageAllocator> allocator_ =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                     .cpus = 2,
                     .max_order = kLarge,
                     .section_order = kLarge,
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}});
  VcpuTimes times_{time_, 2};
  ZoneLockModel locks_{kCosts, time_, *allocator_, times_};
};

TEST_F(ZoneLockModelTest, AVcpuIsChargedForEachUseOfAZone) {
  Step(0);
  EXPECT_EQ(base(), 110u);
  times_.BeginStep(0);
  // A refill of two pages; the second page needs no zone.
  for (int i = 0; i < 2; ++i) {
    allocator_->Allocate(0, Order(0));
    locks_.OnVcpuUsedAllocator(0);
  }
  EXPECT_EQ(base(), 230u);
}

TEST_F(ZoneLockModelTest, AVcpuWaitsForTheReportersHold) {
  HoldByReporter();
  time_.RunFor(Nanoseconds(400));
  Step(0);
  EXPECT_EQ(isolation(), 600u);
  time_.RunFor(Nanoseconds(600));
  Step(1);
  EXPECT_EQ(isolation(), 600u);
}

// Its step took the lock 0 to 110 ns ago, in the hold that begins now.
TEST_F(ZoneLockModelTest, AHoldDelaysAVcpuWhoseStepRanBefore) {
  Step(0);
  HoldByReporter();
  EXPECT_EQ(isolation(), 1000u);
  EXPECT_EQ(locks_.hold_times().max, 1000u);
  EXPECT_EQ(locks_.ReporterLag(), 1000u);
}

TEST_F(ZoneLockModelTest, AVcpuWaitsFromTheInstantAtWhichAHoldBegins) {
  HoldByReporter();
  Step(0);
  EXPECT_EQ(isolation(), 1000u);
}

// Its step took the lock at 300 ns, and again at 410 ns, when it had waited.
TEST_F(ZoneLockModelTest, AHoldDelaysAVcpuOnceAndFromItsUseOn) {
  times_.BeginStep(0);
  locks_.OnStep(0);
  times_.Charge(0, CostKind::kBase, 300);
  for (int i = 0; i < 2; ++i) {
    allocator_->Allocate(0, kLarge);
    locks_.OnVcpuUsedAllocator(0);
  }
  times_.EndStep(0);
  HoldByReporter();
  EXPECT_EQ(isolation(), 700u);
}

// The reporter takes a processor, if none is idle.
TEST_F(ZoneLockModelTest, AHoldTakesTheTimeOfAVcpu) {
  for (const int vcpu : {0, 1}) {
    times_.BeginStep(vcpu);
    locks_.OnStep(vcpu);
    times_.Charge(vcpu, CostKind::kBase, 50);
    EXPECT_EQ(isolation(), 0u);
    times_.EndStep(vcpu);
  }
  HoldByReporter();
  EXPECT_EQ(isolation(), 1000u);
}

// A later hold begins where the one before ends.
TEST_F(ZoneLockModelTest, HoldsFollowEachOther) {
  HoldByReporter();
  HoldByReporter();
  EXPECT_EQ(locks_.ReporterLag(), 2000u);
  time_.RunFor(Nanoseconds(1300));
  EXPECT_EQ(locks_.ReporterLag(), 700u);
  Step(0);
  EXPECT_EQ(isolation(), 700u);
  time_.RunFor(Nanoseconds(5000));
  EXPECT_EQ(locks_.ReporterLag(), 0u);
  HoldByReporter();
  EXPECT_EQ(locks_.ReporterLag(), 1000u);
  EXPECT_EQ(locks_.hold_times().count, 3u);
  EXPECT_EQ(locks_.hold_times().sum, 3000u);
}

// The first hold has begun, and not ended, when the second one is added.
TEST_F(ZoneLockModelTest, AHoldIsWaitedForToItsEnd) {
  HoldByReporter();
  time_.RunFor(Nanoseconds(400));
  HoldByReporter();
  time_.RunFor(Nanoseconds(200));
  Step(0);
  EXPECT_EQ(isolation(), 400u);
}

// What a vCPU did before its present step is over, whatever is held later; so
// is what it did in another zone.
TEST_F(ZoneLockModelTest, OnlyAUseWithinTheHoldIsDelayed) {
  Step(0);
  times_.BeginStep(0);
  locks_.OnStep(0);
  times_.Charge(0, CostKind::kBase, 50);
  times_.EndStep(0);
  HoldByReporter();
  EXPECT_EQ(isolation(), 0u);
  time_.RunFor(Nanoseconds(1000));
  Step(1);
  Zone& other = allocator_->zone(0, ZoneType::kNormal);
  {
    LockHolder hold(other.lock());
    locks_.OnUnlock(other, {});
  }
  EXPECT_EQ(isolation(), 0u);
}

TEST_F(ZoneLockModelTest, AHoldTakesAsLongAsTheWorkUnderIt) {
  const CostModel costs = {.reporter_hold = 1,
                           .reporter_look = 10,
                           .reporter_isolate = 100,
                           .reporter_return = 1000};
  ZoneLockModel locks(costs, time_, *allocator_, times_);
  Zone& zone = allocator_->zone(0, ZoneType::kDma);
  LockHolder hold(zone.lock());
  locks.OnUnlock(zone, {.scanned = 2, .isolated = 3, .returned = 4});
  EXPECT_EQ(locks.ReporterLag(), 4321u);
}

TEST_F(ZoneLockModelTest, EndsItsObservation) {
  {
    VirtualTime time(1);
    VcpuTimes times(time, 2);
    const ZoneLockModel another(kCosts, time, *allocator_, times);
  }
  EXPECT_TRUE(allocator_->Allocate(0, kLarge));
}

}  // namespace
}  // namespace guestmm::zone_lock_model_test
