#include "guestmm/workload/page_fault1_workload.h"

#include <gtest/gtest.h>

#include "tests/testing/counting_backing.h"

namespace guestmm::page_fault1_workload_test {
namespace {

TEST(PageFault1WorkloadTest, TouchesEveryPageThenFreesThemAllForEver) {
  CountingGuest guest(64 * kMiB);
  PageFault1Workload workload({.bytes = 4 * kMiB});
  constexpr int kSteps = 1024 / 64;
  for (uint64_t round = 1; round <= 3; ++round) {
    for (int i = 1; i <= kSteps; ++i) {
      EXPECT_EQ(workload.Step(guest.vcpu()), Nanoseconds(0));
      EXPECT_EQ(workload.allocated_bytes(), PageCount(64).bytes() * i);
    }
    EXPECT_EQ(workload.work(), round * 1024);
    for (int i = 1; i <= kSteps; ++i) {
      EXPECT_EQ(workload.Step(guest.vcpu()), Nanoseconds(0));
    }
    EXPECT_EQ(workload.allocated_bytes(), 0u);
    EXPECT_EQ(guest.backing->held(), PageCount(0));
  }
  // In ascending order of addresses, which is allocation order.
  EXPECT_TRUE(guest.backing->freed() == guest.backing->allocated());
}

TEST(PageFault1WorkloadTest, CountsEachPageOfAHugePage) {
  CountingGuest guest(64 * kMiB);
  PageFault1Workload workload({.bytes = 8 * kMiB, .order = Order(9)});
  for (uint64_t step = 1; step <= 4; ++step) {
    workload.Step(guest.vcpu());
    EXPECT_EQ(workload.work(), step * 512);
  }
  for (int step = 0; step < 4; ++step) workload.Step(guest.vcpu());
  EXPECT_EQ(workload.work(), 4u * 512);
  EXPECT_EQ(workload.allocated_bytes(), 0u);
}

TEST(PageFault1WorkloadTest, UnmapsWhatItHasWhereMemoryEnds) {
  CountingGuest guest(64 * kMiB);
  PageFault1Workload workload({.bytes = kGiB});
  uint64_t peak = 0;
  do {
    peak = workload.allocated_bytes();
    workload.Step(guest.vcpu());
  } while (workload.allocated_bytes() >= peak);
  EXPECT_GT(peak, 60 * kMiB);
  while (workload.allocated_bytes() > 0) workload.Step(guest.vcpu());
  const uint64_t work = workload.work();
  workload.Step(guest.vcpu());
  EXPECT_EQ(workload.work(), work + 64);
}

}  // namespace
}  // namespace guestmm::page_fault1_workload_test
