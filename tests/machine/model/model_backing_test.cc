#include "src/machine/model/model_backing.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::model_backing_test {
namespace {

constexpr Order kLarge(2);
constexpr Pfn kEnd(2048);
constexpr uint64_t kStamp = 1;

// Costs of one kind are other powers of ten, so that a sum shows what is in it.
constexpr CostModel kCosts = {.allocate = 1,
                              .free = 10,
                              .zone_visit = 100,
                              .zone_block = 1000,
                              .guest_fault = 10'000,
                              .guest_zero_page = 100'000,
                              .read_page = 1'000'000,
                              .exit = 1,
                              .host_fault_4k = 10,
                              .host_zero_4k = 7,
                              .host_fault_2m = 100,
                              .host_zero_2m = 9,
                              .hook_freed = 1,
                              .hook_taken = 10,
                              .hook_taken_batch = 100};

// vCPU 0 is in a step.
class ModelBackingTest : public testing::Test {
 protected:
  ModelBackingTest() { times_.BeginStep(0); }

  ModelBacking Backing(HostLedger& ledger) {
    return ModelBacking(kCosts, ledger, times_, locks_, hooks_);
  }
  // What was spent since the last call.
  uint64_t Spent(CostKind kind) {
    uint64_t& before = before_[static_cast<size_t>(kind)];
    const uint64_t spent = times_.spent(kind) - before;
    before = times_.spent(kind);
    return spent;
  }

  VirtualTime time_{1};
  const std::unique_ptr<PageAllocator> allocator_ =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                     .max_order = kLarge,
                     .section_order = kLarge,
                     .min_free_kbytes = 0,
                     .per_cpu_limits = kNoCache});
  VcpuTimes times_{time_, 1};
  ZoneLockModel locks_{kCosts, time_, *allocator_, times_};
  HookCosts hooks_{kCosts};
  HostLedger small_{kEnd, Order(0)};
  HostLedger huge_{kEnd, kPageblockOrder};

 private:
  std::array<uint64_t, kCostKinds> before_{};
};

TEST_F(ModelBackingTest, AnOperationCostsWhatItsZonesAndHooksDid) {
  ModelBacking backing = Backing(small_);
  const Pfn pfn = *allocator_->Allocate(0, kLarge);
  hooks_.OnTaken(/*is_batch=*/false);
  backing.OnAllocated(0, pfn, kLarge);
  EXPECT_EQ(Spent(CostKind::kBase), 1101u);
  EXPECT_EQ(Spent(CostKind::kHook), 10u);
  EXPECT_EQ(backing.allocated_pages(), PageCount(4));

  allocator_->Free(0, pfn, kLarge);
  hooks_.OnFreed();
  hooks_.OnTaken(/*is_batch=*/true);
  backing.OnFreed(0, pfn, kLarge);
  EXPECT_EQ(Spent(CostKind::kBase), 1110u);
  EXPECT_EQ(Spent(CostKind::kHook), 101u);
  EXPECT_EQ(backing.allocated_pages(), PageCount(0));

  // Fails before it gets to a zone.
  backing.OnAllocated(0, std::nullopt, kLarge);
  EXPECT_EQ(Spent(CostKind::kBase), 1u);
  EXPECT_EQ(Spent(CostKind::kHook), 0u);
  EXPECT_EQ(backing.allocated_pages(), PageCount(0));
}

TEST_F(ModelBackingTest, ATouchFaultsOnEachPageThatIsNotResident) {
  ModelBacking backing = Backing(small_);
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  EXPECT_EQ(Spent(CostKind::kBase), 210'000u);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 2 * 11u);
  EXPECT_EQ(Spent(CostKind::kZeroing), 2 * 7u);
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  EXPECT_EQ(Spent(CostKind::kBase), 410'000u);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 2 * 11u);
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 0u);
}

TEST_F(ModelBackingTest, WithHugePagesATouchFaultsOnEachOfThem) {
  ModelBacking backing = Backing(huge_);
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  EXPECT_EQ(Spent(CostKind::kBase), 210'000u);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 101u);
  EXPECT_EQ(Spent(CostKind::kZeroing), 9u);
  backing.Touch(0, Pfn(1024), kMaxOrder, kStamp);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 2 * 101u);
  EXPECT_EQ(Spent(CostKind::kZeroing), 2 * 9u);
}

// Of a huge page that was split, each page takes a fault of its own; a larger
// page below 2 MiB takes one, and is cleared.
TEST_F(ModelBackingTest, PartsOfHugePagesFaultOneByOne) {
  ModelBacking backing = Backing(huge_);
  backing.Touch(0, Pfn(8), Order(1), kStamp);
  huge_.OnReported(std::vector<GpaRange>{{.gpa = ToGpa(Pfn(16)),
                                          .bytes = PageCount(4).bytes()}},
                   times_.Now(0));
  Spent(CostKind::kFaultBack);
  Spent(CostKind::kZeroing);
  backing.Touch(0, Pfn(16), Order(3), kStamp);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 4 * 11u);
  EXPECT_EQ(Spent(CostKind::kZeroing), 4 * 7u);

  HostLedger middle(kEnd, Order(4));
  ModelBacking other = Backing(middle);
  other.Touch(0, Pfn(8), Order(1), kStamp);
  EXPECT_EQ(Spent(CostKind::kFaultBack), 11u);
  EXPECT_EQ(Spent(CostKind::kZeroing), 16 * 7u);
}

// A second after the discard is no refault, whether the clock or the vCPU's own
// step brought it there.
TEST_F(ModelBackingTest, ATouchHappensAtItsVcpusTime) {
  ModelBacking backing = Backing(small_);
  const std::vector<GpaRange> page = {
      {.gpa = ToGpa(Pfn(8)), .bytes = kPageSize}};
  for (const uint64_t refaults : {1, 0}) {
    backing.Touch(0, Pfn(8), Order(0), kStamp);
    backing.OnFreed(0, Pfn(8), Order(0));
    small_.OnReported(page, times_.Now(0));
    const uint64_t before = small_.counters().refaults;
    if (refaults == 0) times_.Charge(0, CostKind::kBase, 1'000'000'000);
    backing.Touch(0, Pfn(8), Order(0), kStamp);
    EXPECT_EQ(small_.counters().refaults - before, refaults);
  }
}

TEST_F(ModelBackingTest, WhatWasDiscardedIsLost) {
  ModelBacking backing = Backing(small_);
  backing.Touch(0, Pfn(8), Order(2), kStamp);
  Spent(CostKind::kBase);
  EXPECT_EQ(backing.FindCorrupted(0, Pfn(8), Order(2), kStamp), std::nullopt);
  EXPECT_EQ(Spent(CostKind::kBase), 4'000'000u);
  small_.OnReported(
      std::vector<GpaRange>{{.gpa = ToGpa(Pfn(10)), .bytes = kPageSize}},
      time_.Now());
  EXPECT_EQ(backing.FindCorrupted(0, Pfn(8), Order(2), kStamp), Pfn(10));
  EXPECT_EQ(Spent(CostKind::kBase), 4'000'000u);
}

// A block that was allocated since its last report needs another; one that was
// freed is not in use.
TEST_F(ModelBackingTest, TheLedgerKnowsWhatVcpusHold) {
  ModelBacking backing = Backing(small_);
  const std::vector<GpaRange> block = {
      {.gpa = ToGpa(Pfn(8)), .bytes = kLarge.bytes()}};
  small_.OnReported(block, time_.Now());
  const uint64_t needed = small_.counters().needed_bytes;
  backing.OnAllocated(0, Pfn(8), kLarge);
  backing.Touch(0, Pfn(8), kLarge, kStamp);
  EXPECT_EQ(small_.FirstInUse(block), Pfn(8));
  backing.OnFreed(0, Pfn(8), kLarge);
  EXPECT_EQ(small_.FirstInUse(block), std::nullopt);
  small_.OnReported(block, time_.Now());
  EXPECT_EQ(small_.counters().needed_bytes - needed, kLarge.bytes());
}

}  // namespace
}  // namespace guestmm::model_backing_test
