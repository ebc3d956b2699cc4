#include "guestmm/frame/frame_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/buddy/page_allocator.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::frame_allocator_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// 16 pages in each of ZONE_DMA and ZONE_DMA32.
class FrameAllocatorTest : public ::testing::Test {
 protected:
  FrameAllocatorTest() {
    page_allocator_->zone(0, ZoneType::kDma).SetWatermarks({});
    page_allocator_->zone(0, ZoneType::kDma32).SetWatermarks({});
  }
  ~FrameAllocatorTest() override {
    EXPECT_EQ(allocator_.CheckInvariants(), absl::OkStatus());
  }

  std::vector<std::pair<Pfn, Order>> FreeBlocks(
      Order min_order, FreeBlocksOf zones = FreeBlocksOf::kAllZones) {
    std::vector<std::pair<Pfn, Order>> blocks;
    allocator_.ForEachFreeBlock(min_order, zones, [&](Pfn pfn, Order order) {
      blocks.emplace_back(pfn, order);
    });
    return blocks;
  }

  const std::unique_ptr<PageAllocator> page_allocator_ = MakeAllocator(
      {.memory = {PagesFrom(Pfn(0), 16), PagesFrom(kDma32Start, 16)},
       .cpus = 2,
       .max_order = Order(4),
       .section_order = Order(4),
       .min_free_kbytes = 0,
       .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 4}});
  FrameAllocator& allocator_ = *page_allocator_;
};

using FrameAllocatorDeathTest = FrameAllocatorTest;

TEST_F(FrameAllocatorTest, ReportsItsSpan) {
  EXPECT_EQ(allocator_.cpus(), 2);
  EXPECT_EQ(allocator_.max_order(), Order(4));
  EXPECT_EQ(allocator_.hotplug_end(), kDma32Start + PageCount(16));
}

TEST_F(FrameAllocatorTest, AllocatesAndFrees) {
  const std::optional<Pfn> block = allocator_.Allocate(0, Order(2), kGfpDma);
  ASSERT_EQ(block, Pfn(0));
  EXPECT_EQ(allocator_.Counts().allocated(), PageCount(4));
  EXPECT_EQ(allocator_.vmstat().pgalloc[0], 4);
  allocator_.Free(1, *block, Order(2));
  EXPECT_EQ(allocator_.Counts().allocated(), PageCount(0));
  EXPECT_EQ(allocator_.Counts().managed, PageCount(32));
}

TEST_F(FrameAllocatorTest, AllocatesNoneIfMemoryIsOut) {
  ASSERT_TRUE(allocator_.Allocate(0, Order(4), kGfpDma));
  EXPECT_EQ(allocator_.Allocate(0, Order(4), kGfpDma), std::nullopt);
  allocator_.Free(0, Pfn(0), Order(4));
}

TEST_F(FrameAllocatorTest, AllocatesAtOnlyWhatIsInOneFreeBlock) {
  EXPECT_TRUE(allocator_.AllocateAt(Pfn(4), Order(1), MigrateType::kMovable));
  // Allocated; half of it allocated; in no zone; beyond the end.
  EXPECT_FALSE(allocator_.AllocateAt(Pfn(4), Order(0), MigrateType::kMovable));
  EXPECT_FALSE(allocator_.AllocateAt(Pfn(4), Order(2), MigrateType::kMovable));
  EXPECT_FALSE(allocator_.AllocateAt(Pfn(64), Order(0), MigrateType::kMovable));
  EXPECT_FALSE(allocator_.AllocateAt(allocator_.hotplug_end(), Order(0),
                                     MigrateType::kMovable));
  EXPECT_EQ(allocator_.Counts().allocated(), PageCount(2));
  allocator_.Free(0, Pfn(4), Order(1));
  EXPECT_THAT(FreeBlocks(Order(4), FreeBlocksOf::kAllZones),
              ElementsAre(Pair(Pfn(0), Order(4)), Pair(kDma32Start, Order(4))));
}

TEST_F(FrameAllocatorDeathTest, RefusesTypesThatNoRequestHas) {
  EXPECT_DEATH(allocator_.AllocateAt(Pfn(0), Order(0), MigrateType::kIsolate),
               "type Isolate of a request must be Unmovable, Movable or "
               "Reclaimable");
}

TEST_F(FrameAllocatorTest, DrainsPerCpuPages) {
  allocator_.Free(0, *allocator_.Allocate(0, Order(0)), Order(0));
  EXPECT_GT(allocator_.Counts().cached, PageCount(0));
  allocator_.DrainPerCpuPages();
  EXPECT_EQ(allocator_.Counts().cached, PageCount(0));
  EXPECT_EQ(allocator_.Counts().free, PageCount(32));
}

TEST_F(FrameAllocatorTest, VisitsFreeBlocksOfAtLeastAnOrder) {
  // Leaves 2+2, 4-7, 8-15 of ZONE_DMA free.
  ASSERT_TRUE(allocator_.AllocateAt(Pfn(0), Order(1), MigrateType::kMovable));
  EXPECT_THAT(FreeBlocks(Order(2)),
              ElementsAre(Pair(Pfn(4), Order(2)), Pair(Pfn(8), Order(3)),
                          Pair(kDma32Start, Order(4))));
  EXPECT_EQ(FreeBlocks(Order(0)).size(), 4);
}

TEST_F(FrameAllocatorTest, LeavesOutZonesThatAreNotAboveLow) {
  Zone& dma = page_allocator_->zone(0, ZoneType::kDma);
  dma.SetWatermarks({{}, PageCount(16), {}});
  EXPECT_THAT(FreeBlocks(Order(0), FreeBlocksOf::kZonesAboveLow),
              ElementsAre(Pair(kDma32Start, Order(4))));
  page_allocator_->zone(0, ZoneType::kDma32)
      .SetWatermarks({{}, PageCount(20), {}});
  EXPECT_THAT(FreeBlocks(Order(0), FreeBlocksOf::kZonesAboveLow), IsEmpty());
  EXPECT_EQ(FreeBlocks(Order(0)).size(), 2);
  dma.SetWatermarks({{}, PageCount(15), {}});
  EXPECT_THAT(FreeBlocks(Order(0), FreeBlocksOf::kZonesAboveLow),
              ElementsAre(Pair(Pfn(0), Order(4))));
  EXPECT_EQ(allocator_.FreePagesAboveLow(), PageCount(1));
}

TEST_F(FrameAllocatorTest, HasFreeAboveLowIfOneZoneHas) {
  EXPECT_TRUE(allocator_.HasFreeAboveLow(PageCount(16), ZoneType::kMovable));
  EXPECT_FALSE(allocator_.HasFreeAboveLow(PageCount(17), ZoneType::kMovable));
  // Keeps 2 pages from requests that could use ZONE_NORMAL.
  LowmemReserve reserve = {};
  reserve[static_cast<size_t>(ZoneType::kNormal)] = PageCount(2);
  page_allocator_->zone(0, ZoneType::kDma)
      .SetWatermarks({{}, PageCount(4), {}}, reserve);
  page_allocator_->zone(0, ZoneType::kDma32)
      .SetWatermarks({{}, PageCount(8), {}});
  EXPECT_TRUE(allocator_.HasFreeAboveLow(PageCount(12), ZoneType::kDma));
  EXPECT_FALSE(allocator_.HasFreeAboveLow(PageCount(13), ZoneType::kDma));
  EXPECT_TRUE(allocator_.HasFreeAboveLow(PageCount(10), ZoneType::kNormal));
  EXPECT_FALSE(allocator_.HasFreeAboveLow(PageCount(11), ZoneType::kNormal));
}

// Holds one block until it is asked for memory.
class OneBlock final : public Reclaimer {
 public:
  OneBlock(FrameAllocator& allocator, Pfn pfn, Order order)
      : allocator_(allocator), pfn_(pfn), order_(order) {}

  PageCount Reclaim(int cpu, PageCount) override {
    if (!pfn_) return PageCount(0);
    allocator_.Free(cpu, *std::exchange(pfn_, std::nullopt), order_);
    return order_.pages();
  }

 private:
  FrameAllocator& allocator_;
  std::optional<Pfn> pfn_;
  const Order order_;
};

TEST_F(FrameAllocatorTest, CallsReclaimersWhenMemoryIsOut) {
  OneBlock cache(allocator_, *allocator_.Allocate(0, Order(4), kGfpDma),
                 Order(4));
  EXPECT_EQ(allocator_.Allocate(0, Order(4), kGfpDma), std::nullopt);
  allocator_.AddReclaimer(cache);
  EXPECT_EQ(allocator_.Allocate(0, Order(4), kGfpDma), Pfn(0));
  EXPECT_EQ(allocator_.vmstat().pgsteal_direct, 16);
  allocator_.RemoveReclaimer(cache);
  EXPECT_EQ(allocator_.Allocate(0, Order(4), kGfpDma), std::nullopt);
}

}  // namespace
}  // namespace guestmm::frame_allocator_test
