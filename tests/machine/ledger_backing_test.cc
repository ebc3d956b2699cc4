#include "src/machine/ledger_backing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::ledger_backing_test {
namespace {

constexpr uint64_t kStamp = 3;

class LedgerBackingTest : public testing::Test {
 protected:
  std::byte* PageAt(Pfn pfn) {
    return ram_->Translate({.gpa = ToGpa(pfn), .bytes = kPageSize})
        ->bytes()
        .data();
  }

  VirtualTime time_{1};
  std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {{.gpa = Gpa(0), .bytes = 4 * kMiB}}})
          .value();
  HostLedger ledger_{Pfn(1024), Order(0)};
};

TEST_F(LedgerBackingTest, EntersWhatVcpusDo) {
  LedgerBacking backing(*ram_, ledger_, time_);
  backing.OnAllocated(0, Pfn(8), Order(3));
  backing.OnAllocated(0, std::nullopt, Order(3));
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  EXPECT_EQ(ledger_.resident_pages(), PageCount(4));
  EXPECT_EQ(backing.FindCorrupted(0, Pfn(8), Order(2), kStamp), std::nullopt);
  EXPECT_FALSE(backing.lost_any());
}

// The host may back what is allocated before it is touched.
TEST_F(LedgerBackingTest, WhatIsAllocatedNeedsAnotherReport) {
  LedgerBacking backing(*ram_, ledger_, time_);
  const GpaRange block = {.gpa = ToGpa(Pfn(8)), .bytes = 8 * kPageSize};
  ledger_.OnReported({{block}}, time_.Now());
  ledger_.OnReported({{block}}, time_.Now());
  EXPECT_EQ(ledger_.counters().needed_bytes, 8 * kPageSize);
  backing.OnAllocated(0, Pfn(8), Order(2));
  ledger_.OnReported({{block}}, time_.Now());
  EXPECT_EQ(ledger_.counters().needed_bytes, 12 * kPageSize);
}

TEST_F(LedgerBackingTest, ForManyThreadsNothingIsInUse) {
  HostLedger ledger(Pfn(1024), Order(0), Writers::kMany);
  LedgerBacking backing(*ram_, ledger, time_);
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  EXPECT_EQ(ledger.in_use_pages(), PageCount(0));
  EXPECT_FALSE(ledger.InUse(Pfn(8)));
  backing.OnFreed(0, Pfn(8), Order(2));
  EXPECT_EQ(ledger.in_use_pages(), PageCount(0));
}

TEST_F(LedgerBackingTest, APageWithTheContentsOfAnotherIsLost) {
  LedgerBacking backing(*ram_, ledger_, time_);
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  std::copy_n(PageAt(Pfn(8)), kPageSize, PageAt(Pfn(9)));
  EXPECT_EQ(backing.FindCorrupted(0, Pfn(8), Order(1), kStamp), Pfn(9));
}

// Between the stamps at its ends a page is as the kernel cleared it.
TEST_F(LedgerBackingTest, ClearsPagesBeforeTheyAreWrittenTo) {
  LedgerBacking backing(*ram_, ledger_, time_);
  PageAt(Pfn(8))[100] = std::byte{1};
  backing.Touch(0, Pfn(8), Order(0), kStamp);
  EXPECT_EQ(PageAt(Pfn(8))[100], std::byte{0});
}

TEST_F(LedgerBackingTest, RemembersThatAPageWasLost) {
  LedgerBacking backing(*ram_, ledger_, time_);
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  PageAt(Pfn(9))[0] = std::byte{0};
  PageAt(Pfn(9))[1] = std::byte{0};
  EXPECT_EQ(backing.FindCorrupted(0, Pfn(8), Order(1), kStamp), Pfn(9));
  EXPECT_TRUE(backing.lost_any());
}

TEST_F(LedgerBackingTest, TracksWhatIsInUse) {
  LedgerBacking backing(*ram_, ledger_, time_);
  backing.Touch(0, Pfn(8), Order(3), kStamp);
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  EXPECT_EQ(ledger_.in_use_pages(), PageCount(8));
  backing.OnFreed(0, Pfn(8), Order(1));
  EXPECT_EQ(ledger_.in_use_pages(), PageCount(6));
  EXPECT_FALSE(ledger_.InUse(Pfn(9)));
  EXPECT_TRUE(ledger_.InUse(Pfn(10)));
  // Half of it was never touched.
  backing.OnFreed(0, Pfn(12), Order(3));
  EXPECT_EQ(ledger_.in_use_pages(), PageCount(2));
}

TEST_F(LedgerBackingTest, APageInUseWithoutItsStampIsDataLoss) {
  LedgerBacking backing(*ram_, ledger_, time_);
  const PfnRange all = {.start = Pfn(0), .end = Pfn(1024)};
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  EXPECT_TRUE(backing.CheckInUse(all, kStamp).ok());
  PageAt(Pfn(9))[0] = std::byte{0};
  PageAt(Pfn(9))[1] = std::byte{0};
  EXPECT_EQ(backing.CheckInUse(all, kStamp),
            absl::DataLossError("pfn 0x9 was in use, and lost its contents"));
  // A free page may lose what it held.
  backing.OnFreed(0, Pfn(8), Order(1));
  EXPECT_TRUE(backing.CheckInUse(all, kStamp).ok());
}

}  // namespace
}  // namespace guestmm::ledger_backing_test
