#include "src/host/accounting/free_memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "guestmm/buddy/page_allocator.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::free_memory_test {
namespace {

constexpr Order kLargest{4};

// Three blocks of 16 pages, of which the half of one is in use. Of the other
// half 3 pages are resident, of one block all, and of one block none.
class FreeMemoryTest : public testing::Test {
 protected:
  FreeMemoryTest() : used_(*allocator_->Allocate(0, Order(3))) {}

  PageCount Resident(Pfn pfn, Order order) const {
    if (order == Order(3)) return PageCount(3);
    EXPECT_EQ(order, kLargest);
    // Of the two whole blocks.
    const Pfn half = used_.AlignDown(kLargest);
    const Pfn first = half == Pfn(0) ? Pfn(16) : Pfn(0);
    return pfn == first ? order.pages() : PageCount(0);
  }
  FreeMemory All(Order min_order) const {
    return CountFree(
        *allocator_, [this](Pfn pfn, Order o) { return Resident(pfn, o); },
        min_order);
  }
  FreeMemory Reportable(Order order) const {
    return CountReportable(
        *allocator_, [this](Pfn pfn, Order o) { return Resident(pfn, o); },
        order);
  }
  void SetLow(uint64_t low) {
    allocator_->zone(0, ZoneType::kDma)
        .SetWatermarks({.min = PageCount(0),
                        .low = PageCount(low),
                        .high = PageCount(low)});
  }

  const std::unique_ptr<PageAllocator> allocator_ =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 48)},
                     .max_order = kLargest,
                     .min_free_kbytes = 0,
                     .per_cpu_limits = kNoCache});
  const Pfn used_;
};

TEST_F(FreeMemoryTest, CountsThePagesOfABlockThatAreNotResident) {
  EXPECT_EQ(All(Order(0)).pages, PageCount(40));
  EXPECT_EQ(All(Order(0)).with_host, PageCount(5 + 16));
  EXPECT_EQ(All(Order(0)).share(), 21.0 / 40);
}

TEST_F(FreeMemoryTest, CountsBlocksOfTheOrderAndAbove) {
  EXPECT_EQ(All(kLargest).pages, PageCount(32));
  EXPECT_EQ(All(kLargest).with_host, PageCount(16));
  EXPECT_EQ(Reportable(kLargest).pages, PageCount(32));
}

TEST_F(FreeMemoryTest, OnlyAZoneAboveItsLowWatermarkIsReportable) {
  SetLow(39);
  EXPECT_EQ(Reportable(Order(0)).pages, PageCount(40));
  EXPECT_EQ(Reportable(Order(0)).with_host, PageCount(5 + 16));
  SetLow(40);
  EXPECT_EQ(Reportable(Order(0)).pages, PageCount(0));
  EXPECT_EQ(Reportable(Order(0)).share(), std::nullopt);
  EXPECT_EQ(All(Order(0)).pages, PageCount(40));
}

}  // namespace
}  // namespace guestmm::free_memory_test
