// Per-CPU lists by the rules of Linux 6.1.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "tests/buddy/per_cpu/per_cpu_pages_testing.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::per_cpu_pages_61_test {
namespace {

// zone_highsize: the low watermark, divided among the node's vCPUs, but at
// least four batches.
TEST(PerCpuLimits61Test, High61IsAShareOfTheLowWatermark) {
  const PageCount low(4000);
  const auto limits = [&](int cpus) {
    return DefaultPerCpuLimits(KernelVersion::kV6_1, Mib(4096), low, cpus);
  };
  EXPECT_EQ(limits(1), (PerCpuLimits{.batch = 63, .high = 4000}));
  EXPECT_EQ(limits(4), (PerCpuLimits{.batch = 63, .high = 1000}));
  EXPECT_EQ(limits(100), (PerCpuLimits{.batch = 63, .high = 4 * 63}));
}

// 63, 126 and so on up to 2,016 pages: 32 batches (6.1.104).
TEST(PerCpuLimits61Test, AtMost32BatchesGoBackAtOnceIn6_1) {
  PerCpuMarks marks(KernelVersion::kV6_1, {.batch = 63, .high = 7169});
  for (const uint64_t batches : {1, 2, 4, 8, 16, 32, 32, 32}) {
    EXPECT_EQ(marks.PagesToReturn(Order(0), 7169, ZonePressure::kNone),
              batches * 63);
  }
}

TEST(PerCpuOrdersTest, CachesOrders0To3AndAPageblocksIn6_1) {
  EXPECT_EQ(PerCpuPages::CachedOrders(KernelVersion::kV5_3, kPageblockOrder),
            1);
  EXPECT_EQ(PerCpuPages::CachedOrders(KernelVersion::kV6_1, kPageblockOrder),
            0b10'0000'1111);
}

// A zone of 64 pages in pageblocks of 16, and one vCPU's lists of 6.1.
class PerCpuPages61Test : public ::testing::Test {
 protected:
  PerCpuPages61Test() : lists_(MakeLists({.batch = 3, .high = 9})) {}

  std::unique_ptr<PerCpuPages> MakeLists(PerCpuLimits limits) {
    return std::make_unique<PerCpuPages>(*zone_, zone_.pages(),
                                         KernelVersion::kV6_1, limits);
  }
  // Frees `count` single pages, ascending from `pfn`.
  void FreePages(uint64_t pfn, int count) {
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(lists_->Free(Pfn(pfn++), Order(0)), nullptr);
    }
  }
  uint64_t cached() const { return lists_->cached_pages().value(); }

  TinyZone zone_{{.span = {Pfn(0), Pfn(64)},
                  .memory = {{Pfn(0), Pfn(64)}},
                  .max_order = Order(5),
                  .pageblock_order = Order(4),
                  .placement = {.rules = KernelVersion::kV6_1}}};
  std::unique_ptr<PerCpuPages> lists_;
};

// high is nine: a batch is returned, which counts as a consecutive return.
// After that a freed pair is not kept, and all other pages are returned with
// it.
TEST_F(PerCpuPages61Test, SmallBlocksFreedInARowDoNotStayEvenBelowHigh) {
  zone_.AllocatePages(16);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  FreePages(0, 9);
  EXPECT_EQ(cached(), 6);
  EXPECT_EQ(lists_->Free(Pfn(16), Order(1)), nullptr);
  EXPECT_EQ(cached(), 0);
}

// An allocation ends the consecutive returns.
TEST_F(PerCpuPages61Test, SmallBlocksStayAfterAnAllocation) {
  zone_.AllocatePages(16);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  FreePages(0, 9);
  EXPECT_EQ(lists_->Allocate(Order(0), MigrateType::kMovable), Pfn(8));
  EXPECT_EQ(lists_->Free(Pfn(16), Order(1)), nullptr);
  EXPECT_EQ(cached(), 7);
}

// Refills of larger blocks are fewer blocks, but at least two; never more pages
// than a batch.
TEST_F(PerCpuPages61Test, ABatchIsSmallerOfLargerBlocks) {
  lists_ = MakeLists({.batch = 8, .high = 60});
  for (const auto& [order, blocks] :
       {std::pair(1, 4), std::pair(2, 2), std::pair(3, 2)}) {
    EXPECT_TRUE(lists_->Allocate(Order(order), MigrateType::kMovable));
    EXPECT_EQ(cached(), (blocks - 1) << order) << order;
    EXPECT_EQ(lists_->Drain(), nullptr);
  }
}

TEST_F(PerCpuPages61Test, ABatchOfOneIsOneBlock) {
  lists_ = MakeLists({.batch = 1, .high = 60});
  EXPECT_TRUE(lists_->Allocate(Order(2), MigrateType::kMovable));
  EXPECT_EQ(cached(), 0);
}

// Each time high is reached, twice as many pages are returned as before, at
// least a batch, until an allocation.
TEST_F(PerCpuPages61Test, GivesBackTwiceAsMuchEachTime) {
  lists_ = MakeLists({.batch = 3, .high = 20});
  zone_.AllocatePages(64);
  FreePages(0, 20);
  EXPECT_EQ(cached(), 17);
  FreePages(20, 3);
  EXPECT_EQ(cached(), 14);
  FreePages(23, 6);
  EXPECT_EQ(cached(), 8);
  FreePages(29, 12);
  EXPECT_EQ(cached(), 3);  // not 24 but 17 of 20
  // Two steps back.
  EXPECT_TRUE(lists_->Allocate(Order(0), MigrateType::kMovable));
  EXPECT_TRUE(lists_->Allocate(Order(0), MigrateType::kMovable));
  FreePages(41, 19);
  EXPECT_EQ(cached(), 17);
}

TEST_F(PerCpuPages61Test, WhereHighIsBelowABatchOnePageGoesBack) {
  lists_ = MakeLists({.batch = 8, .high = 4});
  zone_.AllocatePages(8);
  FreePages(0, 4);
  EXPECT_EQ(cached(), 3);
  FreePages(4, 4);
  EXPECT_EQ(cached(), 3);
}

// The list that was freed to comes first, its oldest block first.
TEST_F(PerCpuPages61Test, TheListThatIsFreedToGivesBackFirst) {
  zone_.AllocatePages(16);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  ASSERT_EQ(zone_.Allocate(1), Pfn(18));
  EXPECT_EQ(lists_->Free(Pfn(16), Order(1)), nullptr);
  FreePages(0, 6);
  EXPECT_EQ(lists_->Free(Pfn(18), Order(1)), nullptr);  // ten of nine
  // Two pairs are four pages, for the three that had to go.
  EXPECT_TRUE(zone_.FreeBlockAt(16).has_value());
  EXPECT_EQ(cached(), 6);
}

// A huge page is not a small block: it may stay after consecutive returns.
TEST_F(PerCpuPages61Test, APageblockStaysAfterConsecutiveReturns) {
  lists_ = MakeLists({.batch = 3, .high = 30});
  zone_.AllocatePages(32);
  ASSERT_EQ(zone_.Allocate(4), Pfn(32));
  FreePages(0, 30);
  EXPECT_EQ(cached(), 27);
  // 43 pages exceed high, 30; of the six to be returned, it is the only block.
  EXPECT_EQ(lists_->Free(Pfn(32), Order(4)), nullptr);
  EXPECT_EQ(cached(), 27);
}

TEST_F(PerCpuPages61Test, APageblockIsCached) {
  lists_ = MakeLists({.batch = 1, .high = 30});
  ASSERT_EQ(lists_->Allocate(Order(4), MigrateType::kMovable), Pfn(0));
  EXPECT_EQ(lists_->Free(Pfn(0), Order(4)), nullptr);
  EXPECT_EQ(cached(), 16);
  EXPECT_EQ(zone_.pages().Get(Pfn(0)),
            (PageInfo{PageState::kCached, Order(4)}));
  EXPECT_EQ(lists_->Allocate(Order(4), MigrateType::kMovable), Pfn(0));
}

// drain_pages_zone: from the list of unmovable single pages to that of
// reclaimable pageblocks.
TEST_F(PerCpuPages61Test, DrainsListByListFromTheFirstOn) {
  lists_ = MakeLists({.batch = 1, .high = 60});
  std::vector<Pfn> blocks;
  for (const auto& [order, type] : {std::pair(4, MigrateType::kMovable),
                                    std::pair(1, MigrateType::kMovable),
                                    std::pair(0, MigrateType::kMovable),
                                    std::pair(0, MigrateType::kUnmovable)}) {
    blocks.push_back(*lists_->Allocate(Order(order), type));
    ASSERT_EQ(lists_->Free(blocks.back(), Order(order)), nullptr);
  }
  FreedBlocks observer(/*wants_wake=*/false);
  zone_->SetObserver(&observer);
  EXPECT_EQ(lists_->Drain(), nullptr);
  EXPECT_THAT(observer.pfns().size(), 4);
  EXPECT_EQ(observer.pfns()[0], blocks[3].value());  // unmovable
}

// As the two kinds of lists hold them (6.1.97).
TEST_F(PerCpuPages61Test, AMovablePageblockIsNotHandedOutForAnother) {
  lists_ = MakeLists({.batch = 1, .high = 60});
  ASSERT_EQ(lists_->Allocate(Order(4), MigrateType::kMovable), Pfn(0));
  EXPECT_EQ(lists_->Free(Pfn(0), Order(4)), nullptr);
  EXPECT_NE(lists_->Allocate(Order(4), MigrateType::kUnmovable), Pfn(0));
  EXPECT_EQ(lists_->Allocate(Order(4), MigrateType::kMovable), Pfn(0));
}

}  // namespace
}  // namespace guestmm::per_cpu_pages_61_test
