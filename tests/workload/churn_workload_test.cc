#include "guestmm/workload/churn_workload.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <set>

#include "tests/testing/counting_backing.h"

namespace guestmm::churn_workload_test {
namespace {

TEST(ChurnWorkloadTest, StaysAtItsFill) {
  CountingGuest guest(64 * kMiB);
  ChurnWorkload workload({.bytes = 64 * kMiB, .fill = 0.5}, /*seed=*/1);
  while (workload.allocated_bytes() < 32 * kMiB) workload.Step(guest.vcpu());
  for (int i = 0; i < 20000; ++i) {
    EXPECT_EQ(workload.Step(guest.vcpu()), std::chrono::microseconds(20));
    ASSERT_GT(workload.allocated_bytes(), 29 * kMiB);
    ASSERT_LT(workload.allocated_bytes(), 34 * kMiB);
  }
  EXPECT_EQ(guest.backing->held().bytes(), workload.allocated_bytes());
  EXPECT_GT(guest.backing->freed().size(), 5000u);
}

TEST(ChurnWorkloadTest, FreesOldBlocksAsWellAsNewOnes) {
  CountingGuest guest(64 * kMiB);
  ChurnWorkload workload(
      {.bytes = 32 * kMiB, .fill = 0.5, .max_order = Order(3)}, /*seed=*/1);
  for (int i = 0; i < 40000; ++i) workload.Step(guest.vcpu());
  // Of about 2000 blocks that it holds it has freed nearly 20,000.
  const auto& blocks = guest.backing->allocated();
  const std::set<Pfn> first = [&] {
    std::set<Pfn> pfns;
    for (size_t i = 0; i < 100; ++i) pfns.insert(blocks[i].first);
    return pfns;
  }();
  std::set<Pfn> freed;
  for (const auto& [pfn, order] : guest.backing->freed()) {
    if (first.contains(pfn)) freed.insert(pfn);
  }
  EXPECT_GT(freed.size(), 90u);
}

TEST(ChurnWorkloadTest, EachOrderIsHalfAsOftenAsTheOneBelow) {
  CountingGuest guest(128 * kMiB);
  ChurnWorkload workload({.bytes = 96 * kMiB, .max_order = Order(4)},
                         /*seed=*/1);
  for (int i = 0; i < 20000; ++i) workload.Step(guest.vcpu());
  std::array<double, 11> blocks{};
  for (const auto& [pfn, order] : guest.backing->allocated()) {
    ++blocks[static_cast<size_t>(order.value())];
  }
  for (const size_t order : {0, 1, 2}) {
    EXPECT_NEAR(blocks[order] / blocks[order + 1], 2, 0.3) << order;
  }
  // The largest order also stands for all larger ones.
  EXPECT_NEAR(blocks[3] / blocks[4], 1, 0.3);
  EXPECT_EQ(blocks[5], 0);
}

TEST(ChurnWorkloadTest, TakesOrdersByTheirWeights) {
  CountingGuest guest(64 * kMiB);
  ChurnOptions options = {.bytes = 64 * kMiB};
  options.weights[2] = 3;
  options.weights[5] = 1;
  options.weights[10] = 1000;  // Above max_order.
  ChurnWorkload workload(options, /*seed=*/1);
  for (int i = 0; i < 5000; ++i) workload.Step(guest.vcpu());
  double order2 = 0;
  double order5 = 0;
  for (const auto& [pfn, order] : guest.backing->allocated()) {
    ASSERT_TRUE(order == Order(2) || order == Order(5)) << order;
    ++(order == Order(2) ? order2 : order5);
  }
  EXPECT_NEAR(order2 / order5, 3, 0.5);
}

TEST(ChurnWorkloadTest, TheLargestOrderHasAWeight) {
  CountingGuest guest(64 * kMiB);
  ChurnOptions options = {.bytes = 64 * kMiB, .max_order = Order(4)};
  options.weights[4] = 1;
  ChurnWorkload workload(options, /*seed=*/1);
  for (int i = 0; i < 100; ++i) workload.Step(guest.vcpu());
  for (const auto& [pfn, order] : guest.backing->allocated()) {
    ASSERT_EQ(order, Order(4));
  }
}

}  // namespace
}  // namespace guestmm::churn_workload_test
