// Per-CPU lists by the rules of Linux 6.12. The test of PerCpuMarks has how
// many pages move; this one, which.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "tests/buddy/per_cpu/per_cpu_pages_testing.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::per_cpu_pages_612_test {
namespace {

using ::testing::ElementsAre;

constexpr auto kMovable = MigrateType::kMovable;

// A zone of 256 pages in pageblocks of 16, and one vCPU's lists of 6.12.
class PerCpuPages612Test : public ::testing::Test {
 protected:
  PerCpuPages612Test() { MakeLists({.batch = 2, .high = 8, .high_max = 60}); }

  void MakeLists(PerCpuLimits limits) {
    lists_ = std::make_unique<PerCpuPages>(*zone_, zone_.pages(),
                                           KernelVersion::kV6_12, limits);
  }
  void Allocate(uint64_t pfn, Order order = Order(0)) {
    EXPECT_EQ(lists_->Allocate(order, kMovable), Pfn(pfn));
  }
  void Free(uint64_t pfn, Order order = Order(0)) {
    EXPECT_EQ(lists_->Free(Pfn(pfn), order), nullptr);
  }
  uint64_t cached() const { return lists_->cached_pages().value(); }
  void Check() {
    absl::Status status;
    VisitorHolder hold(lists_->lock());
    lists_->CheckedCount(status);
    EXPECT_EQ(status, absl::OkStatus());
  }

  TinyZone zone_{{.span = {Pfn(0), Pfn(256)},
                  .memory = {{Pfn(0), Pfn(256)}},
                  .max_order = Order(5),
                  .pageblock_order = Order(4),
                  .placement = {.rules = KernelVersion::kV6_12}}};
  std::unique_ptr<PerCpuPages> lists_;
};

TEST_F(PerCpuPages612Test, CachesTheOrdersOf6_1) {
  EXPECT_EQ(PerCpuPages::CachedOrders(KernelVersion::kV6_12, kPageblockOrder),
            PerCpuPages::CachedOrders(KernelVersion::kV6_1, kPageblockOrder));
}

// Refills of 2, 4, 8, 16 and 32 pages, each handed out in ascending order; the
// mark rises to 60, and the next refill is of 58, which leave room for a batch.
TEST_F(PerCpuPages612Test, AllocationsInARowTakeEverLargerRefills) {
  uint64_t pfn = 0;
  for (const uint64_t refill : {2, 4, 8, 16, 32, 58}) {
    EXPECT_EQ(cached(), 0u);
    for (uint64_t i = 1; i <= refill; ++i) {
      Allocate(pfn++);
      EXPECT_EQ(cached(), refill - i);
    }
    Check();
  }
  EXPECT_EQ(lists_->high(), 60u);
  EXPECT_EQ(lists_->limits().high, 8u);
}

// Eight pages reach the mark: as many as were freed may go, but for a batch.
TEST_F(PerCpuPages612Test, AReturnBeginsWithTheOldestOfTheListFreedTo) {
  for (int pfn = 0; pfn < 16; ++pfn) zone_.Allocate(0);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  ASSERT_EQ(zone_.Allocate(1), Pfn(18));
  Free(16, Order(1));
  for (const uint64_t pfn : {0, 2, 4, 6, 8}) Free(pfn);
  EXPECT_EQ(cached(), 7u);
  FreedBlocks observer(/*wants_wake=*/false);
  zone_->SetObserver(&observer);
  Free(10);
  EXPECT_THAT(observer.pfns(), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_EQ(cached(), 2u);
  EXPECT_EQ(lists_->high(), 10u);
  Check();
}

// A pageblock is 16 pages at once. Two pageblocks of unlike types are on lists
// of their own.
TEST_F(PerCpuPages612Test, PageblocksAreCachedByKind) {
  MakeLists({.batch = 2, .high = 40, .high_max = 60});
  Allocate(0, Order(4));
  Free(0, Order(4));
  EXPECT_EQ(cached(), 32u);
  EXPECT_NE(lists_->Allocate(Order(4), MigrateType::kUnmovable), Pfn(0));
  Allocate(0, Order(4));
  Check();
}

// The mark has risen to 38; it falls by an eighth each time, 34, 30, 27 and so
// on, and the oldest pages above it go in batches, each from the list of
// unmovable single pages on.
TEST_F(PerCpuPages612Test, DecayReturnsWhatIsAboveTheFallingMark) {
  for (uint64_t pfn = 0; pfn < 14; ++pfn) Allocate(pfn);
  Allocate(14);
  EXPECT_EQ(cached(), 15u);
  EXPECT_EQ(lists_->high(), 38u);
  for (uint64_t pfn = 0; pfn < 15; ++pfn) Free(pfn);
  EXPECT_EQ(cached(), 30u);
  FreedBlocks observer(/*wants_wake=*/false);
  zone_->SetObserver(&observer);
  EXPECT_EQ(lists_->Decay(), nullptr);
  EXPECT_EQ(lists_->Decay(), nullptr);
  EXPECT_EQ(lists_->high(), 30u);
  EXPECT_THAT(observer.pfns(), ElementsAre());
  EXPECT_EQ(lists_->Decay(), nullptr);
  EXPECT_EQ(lists_->high(), 27u);
  EXPECT_THAT(observer.pfns(), ElementsAre(29, 28, 27));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(lists_->Decay(), nullptr);
  EXPECT_EQ(cached(), 8u);
  EXPECT_EQ(lists_->high(), 8u);
  Check();
}

// Three pages are above the mark, in two batches: each takes a whole block.
TEST_F(PerCpuPages612Test, DecayTakesAPageblockForEachBatch) {
  MakeLists({.batch = 2, .high = 45, .high_max = 100});
  Allocate(0, Order(4));
  Allocate(16, Order(4));
  Allocate(32, Order(4));
  EXPECT_EQ(lists_->high(), 49u);
  for (const uint64_t pfn : {0, 16}) Free(pfn, Order(4));
  EXPECT_EQ(cached(), 48u);
  EXPECT_EQ(lists_->Decay(), nullptr);
  EXPECT_EQ(lists_->high(), 45u);
  EXPECT_EQ(cached(), 16u);
  Check();
}

TEST_F(PerCpuPages612Test, ADecayWakesTheObserver) {
  for (uint64_t pfn = 0; pfn < 15; ++pfn) Allocate(pfn);
  FreedBlocks observer(/*wants_wake=*/true);
  zone_->SetObserver(&observer);
  FreeBlockObserver* to_wake = nullptr;
  for (int i = 0; i < 30 && to_wake == nullptr; ++i) to_wake = lists_->Decay();
  EXPECT_EQ(to_wake, &observer);
}

// Limits that differ drain the lists; the mark stays where it was, within them.
TEST_F(PerCpuPages612Test, NewLimitsDrainAndBoundTheMark) {
  for (uint64_t pfn = 0; pfn < 15; ++pfn) Allocate(pfn);
  EXPECT_EQ(lists_->SetLimits({.batch = 2, .high = 8, .high_max = 20}),
            nullptr);
  EXPECT_EQ(cached(), 0u);
  EXPECT_EQ(lists_->high(), 20u);
}

}  // namespace
}  // namespace guestmm::per_cpu_pages_612_test
