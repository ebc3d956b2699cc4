#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "guestmm/machine/real/guest.h"
#include "guestmm/workload/burst_workload.h"
#include "guestmm/workload/idle_workload.h"

namespace guestmm::workloads_test {
namespace {

std::unique_ptr<Guest> SmallGuest() {
  return Guest::Create({.memory = MemoryMap::Pc(64 * kMiB),
                        .huge_pages = HugePages::kForbid})
      .value();
}

TEST(BurstWorkloadTest, GrowsToItsSizeTouchingAllAndFreesAll) {
  const auto guest = SmallGuest();
  BurstWorkload workload(20 * kMiB, /*seed=*/1);
  while (workload.growing()) {
    ASSERT_TRUE(workload.Step(guest->vcpu(0)).has_value());
  }
  EXPECT_EQ(workload.allocated_bytes(), 20 * kMiB);
  EXPECT_EQ(guest->ram().ResidentBytes().value(), 20 * kMiB);
  EXPECT_EQ(guest->allocator().Counts().allocated().bytes(), 20 * kMiB);

  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_EQ(workload.allocated_bytes(), 0u);
  EXPECT_EQ(workload.peak_bytes(), 20 * kMiB);
  EXPECT_EQ(workload.corrupted(), std::nullopt);
  EXPECT_EQ(guest->allocator().Counts().allocated(), PageCount(0));
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

TEST(BurstWorkloadTest, MixesOrders) {
  const auto guest = SmallGuest();
  BurstWorkload workload(32 * kMiB, /*seed=*/1);
  while (workload.growing()) workload.Step(guest->vcpu(0));
  std::array<int, 11> heads{};
  for (Pfn pfn(0); pfn < guest->allocator().pages().end();
       pfn += PageCount(1)) {
    const PageInfo info = guest->allocator().pages().Get(pfn);
    if (info.state == PageState::kAllocated) {
      ++heads[static_cast<size_t>(info.order.value())];
    }
  }
  for (const size_t order : {0, 1, 2, 3, 9})
    EXPECT_GT(heads[order], 0) << order;
}

// A workload larger than memory takes what there is and then stops allocating.
TEST(BurstWorkloadTest, StopsGrowingWhereMemoryEnds) {
  const auto guest = SmallGuest();
  BurstWorkload workload(kGiB, /*seed=*/1);
  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_GT(workload.peak_bytes(), 60 * kMiB);
  EXPECT_LT(workload.peak_bytes(), 64 * kMiB);
  EXPECT_EQ(guest->allocator().Counts().allocated(), PageCount(0));
}

TEST(BurstWorkloadTest, NoticesPagesThatLoseTheirContents) {
  const auto guest = SmallGuest();
  BurstWorkload workload(4 * kMiB, /*seed=*/1);
  while (workload.growing()) workload.Step(guest->vcpu(0));
  for (const GpaRange& range : guest->ram().regions()) {
    const Translation memory = *guest->ram().Translate(range);
    const std::span<std::byte> bytes = memory.bytes();
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
  }
  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_TRUE(workload.corrupted().has_value());
}

// Whatever it reads after a lost page.
TEST(BurstWorkloadTest, RemembersThePageThatWasLost) {
  const auto guest = SmallGuest();
  BurstWorkload workload(20 * kMiB, /*seed=*/1);
  while (workload.growing()) workload.Step(guest->vcpu(0));
  const PageMap& pages = guest->allocator().pages();
  std::vector<Pfn> heads;
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    if (pages.Get(pfn).state == PageState::kAllocated) heads.push_back(pfn);
  }
  const Pfn lost = heads[heads.size() / 2];
  const Translation memory =
      *guest->ram().Translate({.gpa = ToGpa(lost), .bytes = kPageSize});
  std::ranges::fill(memory.bytes(), std::byte{0});
  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_EQ(workload.corrupted(), lost);
}

TEST(IdleWorkloadTest, LeavesNothingAllocated) {
  const auto guest = SmallGuest();
  IdleWorkload workload(/*seed=*/1);
  for (int i = 0; i < 10; ++i) {
    EXPECT_GT(workload.Step(guest->vcpu(0)).value(), Nanoseconds(0));
    EXPECT_EQ(guest->allocator().Counts().allocated(), PageCount(0));
  }
  // It freed a block large enough to be reported.
  EXPECT_GT(guest->ram().ResidentBytes().value(), 2 * kMiB);
}

}  // namespace
}  // namespace guestmm::workloads_test
