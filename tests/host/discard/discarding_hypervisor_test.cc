#include "guestmm/host/discard/discarding_hypervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace guestmm::discarding_hypervisor_test {
namespace {

using ::testing::HasSubstr;

// 64 host pages at 1 MiB and 64 at 1 GiB, all written to; one range per system
// call.
class DiscardingHypervisorTest : public testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;

  DiscardingHypervisorTest() {
    for (const GpaRange& region : ram_->regions()) Fill(region);
  }

  GpaRange Pages(uint64_t first, uint64_t count) const {
    return {Gpa(kMiB + first * page_), count * page_};
  }
  GpaRange HighPages(uint64_t first, uint64_t count) const {
    return {Gpa(kGiB + first * page_), count * page_};
  }
  std::span<std::byte> Bytes(GpaRange range) const {
    return ram_->Translate(range)->bytes();
  }
  void Fill(GpaRange range) const {
    std::fill(Bytes(range).begin(), Bytes(range).end(), std::byte{0xa5});
  }
  bool All(GpaRange range, int value) const {
    return std::all_of(Bytes(range).begin(), Bytes(range).end(),
                       [=](std::byte b) { return b == std::byte(value); });
  }
  uint64_t Resident(GpaRange range) const {
    return ram_->ResidentBytes(range).value();
  }

  const uint64_t page_ = HostPageSize();
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create(
          {.regions = {{Gpa(kMiB), kPages* page_}, {Gpa(kGiB), kPages* page_}},
           .huge_pages = HugePages::kForbid})
          .value();
  const std::unique_ptr<DiscardingHypervisor> made_ =
      DiscardingHypervisor::Create(*ram_,
                                   {.ranges_per_call = RangesPerCall::kOne})
          .value();
  DiscardingHypervisor& hypervisor_ = *made_;
};

TEST_F(DiscardingHypervisorTest, ReturnsTheMemoryToTheHost) {
  ASSERT_EQ(Resident(Pages(0, kPages)), kPages * page_);
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 4)}}), absl::OkStatus());
  EXPECT_EQ(Resident(Pages(8, 4)), 0u);
  EXPECT_EQ(ram_->ResidentBytes().value(), (2 * kPages - 4) * page_);
}

TEST_F(DiscardingHypervisorTest, DiscardedMemoryReadsAsZero) {
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 4)}}), absl::OkStatus());
  EXPECT_TRUE(All(Pages(8, 4), 0));
}

TEST_F(DiscardingHypervisorTest, NeighboursAreUntouched) {
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 4)}}), absl::OkStatus());
  EXPECT_TRUE(All(Pages(0, 8), 0xa5));
  EXPECT_TRUE(All(Pages(12, kPages - 12), 0xa5));
  EXPECT_TRUE(All(HighPages(0, kPages), 0xa5));
}

TEST_F(DiscardingHypervisorTest, DiscardedMemoryCanBeUsedAgain) {
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 4)}}), absl::OkStatus());
  Fill(Pages(8, 4));
  EXPECT_TRUE(All(Pages(8, 4), 0xa5));
  EXPECT_EQ(Resident(Pages(8, 4)), 4 * page_);
}

TEST_F(DiscardingHypervisorTest, DiscardsARegionWhole) {
  EXPECT_EQ(hypervisor_.Discard({{HighPages(0, kPages)}}), absl::OkStatus());
  EXPECT_EQ(Resident(HighPages(0, kPages)), 0u);
  EXPECT_EQ(Resident(Pages(0, kPages)), kPages * page_);
}

TEST_F(DiscardingHypervisorTest, MakesNoCallForNothing) {
  EXPECT_EQ(hypervisor_.Discard({}), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 0u);
}

TEST_F(DiscardingHypervisorTest, AdjacentRangesTakeOneCall) {
  const std::vector<GpaRange> ranges = {Pages(0, 2), Pages(2, 3), Pages(5, 1)};
  EXPECT_EQ(hypervisor_.Discard(ranges), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 1u);
  EXPECT_EQ(hypervisor_.counters().bytes, 6 * page_);
  EXPECT_EQ(Resident(Pages(0, 6)), 0u);
  EXPECT_TRUE(All(Pages(6, 1), 0xa5));
}

TEST_F(DiscardingHypervisorTest, AGapOfOnePageTakesAnotherCall) {
  const std::vector<GpaRange> ranges = {Pages(0, 2), Pages(3, 2)};
  EXPECT_EQ(hypervisor_.Discard(ranges), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 2u);
  EXPECT_EQ(Resident(Pages(2, 1)), page_);
}

TEST_F(DiscardingHypervisorTest, UnsortedRangesMergeToo) {
  const std::vector<GpaRange> ranges = {Pages(4, 2), HighPages(0, 1),
                                        Pages(0, 2), Pages(2, 2)};
  EXPECT_EQ(hypervisor_.Discard(ranges), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 2u);
  EXPECT_EQ(hypervisor_.counters().bytes, 7 * page_);
  EXPECT_EQ(Resident(Pages(0, 6)), 0u);
  EXPECT_EQ(Resident(HighPages(0, 2)), page_);
}

TEST_F(DiscardingHypervisorTest, CountersAddUp) {
  EXPECT_EQ(hypervisor_.Discard({{Pages(0, 1)}}), absl::OkStatus());
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 2)}}), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 2u);
  EXPECT_EQ(hypervisor_.counters().bytes, 3 * page_);
  EXPECT_EQ(hypervisor_.counters().failures, 0u);
}

TEST_F(DiscardingHypervisorTest, ARangeOutsideRamDoesNotAffectOthers) {
  const GpaRange hole = {Gpa(512 * kMiB), page_};
  const std::vector<GpaRange> ranges = {Pages(0, 2), hole, Pages(8, 2)};
  const absl::Status status = hypervisor_.Discard(ranges);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(
      std::string(status.message()),
      "discard of 0x20000000 + " + FormatBytes(page_) + ": not in guest RAM");
  EXPECT_EQ(Resident(Pages(0, 2)), 0u);
  EXPECT_EQ(Resident(Pages(8, 2)), 0u);
  EXPECT_EQ(hypervisor_.counters().bytes, 4 * page_);
}

TEST_F(DiscardingHypervisorTest, TheFirstErrorIsReturned) {
  const std::vector<GpaRange> ranges = {{Gpa(0), page_}, {Gpa(kTiB), page_}};
  EXPECT_THAT(std::string(hypervisor_.Discard(ranges).message()),
              HasSubstr("discard of 0x0 "));
}

TEST_F(DiscardingHypervisorTest, ARangeThatLeavesItsRegionIsNotDiscarded) {
  EXPECT_EQ(hypervisor_.Discard({{Pages(kPages - 1, 2)}}).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(All(Pages(kPages - 1, 1), 0xa5));
  EXPECT_EQ(hypervisor_.counters().calls, 0u);
}

// The host does not discard locked pages. With syscall(), since sanitizers make
// mlock() a no-op.
TEST_F(DiscardingHypervisorTest, WhatTheHostRefusesIsCounted) {
  const std::span<std::byte> locked = Bytes(Pages(8, 1));
  ASSERT_EQ(syscall(SYS_mlock, locked.data(), locked.size()), 0);
  const std::vector<GpaRange> ranges = {Pages(8, 1), Pages(16, 1)};
  const absl::Status status = hypervisor_.Discard(ranges);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()), "madvise(MADV_DONTNEED) of " +
                                               FormatBytes(page_) +
                                               " failed: Invalid argument");
  EXPECT_EQ(hypervisor_.counters().calls, 2u);
  EXPECT_EQ(hypervisor_.counters().failures, 1u);
  EXPECT_EQ(hypervisor_.counters().bytes, page_);
  EXPECT_TRUE(All(Pages(8, 1), 0xa5));
  EXPECT_EQ(Resident(Pages(16, 1)), 0u);

  ASSERT_EQ(syscall(SYS_munlock, locked.data(), locked.size()), 0);
  EXPECT_EQ(hypervisor_.Discard({{Pages(8, 1)}}), absl::OkStatus());
  EXPECT_TRUE(All(Pages(8, 1), 0));
}

TEST_F(DiscardingHypervisorTest, AnyThreadMayDiscard) {
  constexpr uint64_t kThreads = 4;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([this, i] {
      for (uint64_t page = i; page < kPages; page += kThreads) {
        EXPECT_EQ(hypervisor_.Discard({{Pages(page, 1)}}), absl::OkStatus());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(hypervisor_.counters().calls, kPages);
  EXPECT_EQ(hypervisor_.counters().bytes, kPages * page_);
  EXPECT_EQ(Resident(Pages(0, kPages)), 0u);
}

}  // namespace
}  // namespace guestmm::discarding_hypervisor_test
