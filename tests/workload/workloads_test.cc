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
#include "tests/testing/counting_backing.h"

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

std::vector<Pfn> AllocatedHeads(Guest& guest) {
  const PageMap& pages = guest.allocator().pages();
  std::vector<Pfn> heads;
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    if (pages.Get(pfn).state == PageState::kAllocated) heads.push_back(pfn);
  }
  return heads;
}

// Whatever it reads after a lost page.
TEST(BurstWorkloadTest, RemembersThePageThatWasLost) {
  const auto guest = SmallGuest();
  BurstWorkload workload(20 * kMiB, /*seed=*/1);
  while (workload.growing()) workload.Step(guest->vcpu(0));
  const std::vector<Pfn> heads = AllocatedHeads(*guest);
  const Pfn lost = heads[heads.size() / 2];
  const Translation memory =
      *guest->ram().Translate({.gpa = ToGpa(lost), .bytes = kPageSize});
  std::ranges::fill(memory.bytes(), std::byte{0});
  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_EQ(workload.corrupted(), lost);
}

// A page of the mapping that is read last.
TEST(BurstWorkloadTest, ReadsAllOfItsMemory) {
  const auto guest = SmallGuest();
  BurstWorkload workload(20 * kMiB, /*seed=*/1);
  std::vector<Pfn> before;
  while (workload.growing()) {
    before = AllocatedHeads(*guest);
    workload.Step(guest->vcpu(0));
  }
  const std::vector<Pfn> after = AllocatedHeads(*guest);
  const auto lost =
      std::ranges::mismatch(before, after).in2;  // before is a part of after
  ASSERT_NE(lost, after.end());
  const Translation memory =
      *guest->ram().Translate({.gpa = ToGpa(*lost), .bytes = kPageSize});
  std::ranges::fill(memory.bytes(), std::byte{0});
  while (workload.Step(guest->vcpu(0))) {
  }
  EXPECT_EQ(workload.corrupted(), *lost);
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

// In a guest with memory above 4 GiB, from where what may be anywhere is taken.
TEST(IdleWorkloadTest, TakesSmallBlocksAndOneOf2MibOnEitherSideOf4Gib) {
  CountingGuest guest(5 * kGiB);
  IdleWorkload workload(/*seed=*/1);
  constexpr Pfn k4Gib(4 * kGiB / kPageSize);
  std::array<int, 10> of_order{};
  for (size_t step = 1; step <= 10; ++step) {
    workload.Step(guest.vcpu());
    const CountingBacking::Sequence& blocks = guest.backing->allocated();
    ASSERT_EQ(blocks.size(), 18 * step);
    for (size_t i = 18 * (step - 1); i < blocks.size(); ++i) {
      ++of_order[static_cast<size_t>(blocks[i].second.value())];
    }
    EXPECT_GE(blocks[18 * step - 2].first, k4Gib);
    EXPECT_LT(blocks[18 * step - 1].first, k4Gib);
  }
  for (const size_t order : {0, 1, 2, 3}) EXPECT_GT(of_order[order], 20);
  EXPECT_EQ(of_order[9], 20);
}

}  // namespace
}  // namespace guestmm::workloads_test
