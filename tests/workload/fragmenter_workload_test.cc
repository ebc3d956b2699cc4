#include "guestmm/workload/fragmenter_workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <set>

#include "tests/testing/counting_backing.h"

namespace guestmm::fragmenter_workload_test {
namespace {

TEST(FragmenterWorkloadTest, LeavesSinglePagesEverywhere) {
  CountingGuest guest(128 * kMiB);
  FragmenterWorkload workload({.bytes = 112 * kMiB, .kept_one_in = 200},
                              /*seed=*/1);
  uint64_t peak = 0;
  while (workload.busy()) {
    EXPECT_EQ(workload.Step(guest.vcpu()), Nanoseconds(0));
    peak = std::max(peak, workload.allocated_bytes());
  }
  EXPECT_GE(peak, 112 * kMiB);
  EXPECT_LT(peak, 113 * kMiB);
  EXPECT_EQ(workload.allocated_bytes(), workload.kept_bytes());
  EXPECT_NEAR(static_cast<double>(workload.kept_bytes()), 112.0 * kMiB / 200,
              112.0 * kMiB / 200 / 4);

  // 2.5 per pageblock on average, so nine of ten have at least one.
  std::set<Pfn> pageblocks;
  const PageMap& pages = guest.guest->allocator().pages();
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    if (pages.Get(pfn).state == PageState::kAllocated) {
      pageblocks.insert(pfn.AlignDown(kPageblockOrder));
    }
  }
  EXPECT_GT(pageblocks.size(), 44u);
}

TEST(FragmenterWorkloadTest, FillsAndFreesAMibAtATime) {
  CountingGuest guest(64 * kMiB);
  FragmenterWorkload workload(
      {.bytes = 8 * kMiB, .kept_one_in = 1'000'000, .max_order = Order(0)},
      /*seed=*/1);
  for (uint64_t mib = 1; mib <= 8; ++mib) {
    workload.Step(guest.vcpu());
    EXPECT_EQ(workload.allocated_bytes(), mib * kMiB);
  }
  workload.Step(guest.vcpu());
  EXPECT_EQ(workload.allocated_bytes(), 8 * kMiB) << "is full";
  for (uint64_t mib = 8; mib-- > 0;) {
    EXPECT_TRUE(workload.busy());
    workload.Step(guest.vcpu());
    EXPECT_EQ(workload.allocated_bytes(), mib * kMiB);
  }
  EXPECT_FALSE(workload.busy());
}

TEST(FragmenterWorkloadTest, TakesBlocksOfAllOrdersUpToTheLargest) {
  CountingGuest guest(64 * kMiB);
  FragmenterWorkload workload({.bytes = 32 * kMiB, .max_order = Order(2)},
                              /*seed=*/1);
  while (workload.allocated_bytes() < 32 * kMiB) workload.Step(guest.vcpu());
  std::array<double, 11> blocks{};
  for (const auto& [pfn, order] : guest.backing->allocated()) {
    ++blocks[static_cast<size_t>(order.value())];
  }
  EXPECT_NEAR(blocks[0] / blocks[2], 1, 0.15);
  EXPECT_NEAR(blocks[1] / blocks[2], 1, 0.15);
  EXPECT_EQ(blocks[3], 0);
}

TEST(FragmenterWorkloadTest, IsThenQuietForEver) {
  CountingGuest guest(64 * kMiB);
  FragmenterWorkload workload({.bytes = 48 * kMiB}, /*seed=*/1);
  while (workload.busy()) workload.Step(guest.vcpu());
  const uint64_t kept = workload.kept_bytes();
  EXPECT_GT(kept, 0u);
  for (int i = 0; i < 20; ++i) {
    const uint64_t work = workload.work();
    EXPECT_EQ(workload.Step(guest.vcpu()), std::chrono::milliseconds(100));
    EXPECT_GT(workload.work(), work);
    EXPECT_EQ(guest.backing->held().bytes(), kept);
  }
}

TEST(FragmenterWorkloadTest, WhereMemoryIsOutItIsFull) {
  CountingGuest guest(64 * kMiB);
  FragmenterWorkload workload({.bytes = kGiB}, /*seed=*/1);
  uint64_t peak = 0;
  while (workload.busy()) {
    workload.Step(guest.vcpu());
    peak = std::max(peak, workload.allocated_bytes());
  }
  EXPECT_GT(peak, 60 * kMiB);
  EXPECT_LT(workload.kept_bytes(), kMiB);
}

}  // namespace
}  // namespace guestmm::fragmenter_workload_test
