// PerCpuMarks by the rules of Linux 6.12, with values computed by hand. The
// tests of PerCpuPages have the rules of 5.3 and 6.1.

#include "guestmm/buddy/per_cpu_marks.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "tests/buddy/per_cpu/per_cpu_pages_testing.h"

namespace guestmm::per_cpu_marks_test {
namespace {

constexpr auto kNone = ZonePressure::kNone;
constexpr auto kBelowHigh = ZonePressure::kBelowHigh;
constexpr auto kReclaimActive = ZonePressure::kReclaimActive;

// 32 batches are 128 pages.
constexpr PerCpuLimits kLimits = {.batch = 4, .high = 16, .high_max = 100};

PerCpuMarks Marks(PerCpuLimits limits = kLimits) {
  return PerCpuMarks(KernelVersion::kV6_12, limits);
}

// Frees `pages` single pages to lists that hold `count` without them, none of
// which is to make any return.
void FreePages(PerCpuMarks& marks, uint64_t count, uint64_t pages) {
  for (uint64_t i = 1; i <= pages; ++i) {
    EXPECT_EQ(marks.PagesToReturn(Order(0), count + i, kNone), 0u) << i;
  }
}

// Limits ---------------------------------------------------------------------

// The two zones of a guest of 3 GiB with two vCPUs.
TEST(PerCpuLimits612Test, AreSharesOfTheLowWatermarkAndOfAnEighth) {
  EXPECT_EQ(DefaultPerCpuLimits(KernelVersion::kV6_12, PageCount(247'424),
                                PageCount(7032), 2),
            (PerCpuLimits{.batch = 63, .high = 3516, .high_max = 15'464}));
  EXPECT_EQ(DefaultPerCpuLimits(KernelVersion::kV6_12, PageCount(494'208),
                                PageCount(13'976), 2),
            (PerCpuLimits{.batch = 63, .high = 6988, .high_max = 30'888}));
}

TEST(PerCpuLimits612Test, AreAtLeastFourBatches) {
  EXPECT_EQ(
      DefaultPerCpuLimits(KernelVersion::kV6_12, Mib(1024), PageCount(64), 2),
      (PerCpuLimits{.batch = 63, .high = 252, .high_max = 16'384}));
  // 16 MiB have a batch of 0, which counts as 1.
  EXPECT_EQ(
      DefaultPerCpuLimits(KernelVersion::kV6_12, Mib(16), PageCount(20), 200),
      (PerCpuLimits{.batch = 1, .high = 4, .high_max = 4}));
}

// Refills --------------------------------------------------------------------

// 4, 8 and so on; the high mark rises by as much, to 100. The last is what
// leaves a batch below the high mark.
TEST(PerCpuMarks612Test, RefillsDoubleAndRaiseTheHighMark) {
  PerCpuMarks marks = Marks();
  uint64_t high = 16;
  for (const uint64_t pages : {4, 8, 16, 32}) {
    marks.OnAllocate();
    EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), pages);
    high += pages;
    EXPECT_EQ(marks.high(), high);
  }
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 64u);
  EXPECT_EQ(marks.high(), 100u);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 96u);
  // Other lists have pages.
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 50, kNone), 46u);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 98, kNone), 4u);
}

TEST(PerCpuMarks612Test, RefillsAreOfAtMost32Batches) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 16, .high_max = 100'000});
  for (const uint64_t pages : {4, 8, 16, 32, 64, 128, 128}) {
    EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), pages);
  }
}

TEST(PerCpuMarks612Test, EachFreeHalvesTheDoublings) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 16, .high_max = 100'000});
  for (int i = 0; i < 5; ++i) marks.BlocksToRefill(Order(0), 0, kNone);
  FreePages(marks, 0, 1);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 16u);  // 2 of 5
  FreePages(marks, 0, 1);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 8u);  // 1 of 3
  FreePages(marks, 0, 2);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 4u);
}

// A batch, in whole blocks, at least two; it raises the mark, but the next is
// no larger.
TEST(PerCpuMarks612Test, RefillsOfLargerBlocksDoNotGrow) {
  PerCpuMarks marks = Marks({.batch = 8, .high = 32, .high_max = 1000});
  EXPECT_EQ(marks.BlocksToRefill(Order(1), 0, kNone), 4u);
  EXPECT_EQ(marks.BlocksToRefill(Order(1), 0, kNone), 4u);
  EXPECT_EQ(marks.BlocksToRefill(Order(2), 0, kNone), 2u);
  EXPECT_EQ(marks.BlocksToRefill(Order(3), 0, kNone), 2u);
  EXPECT_EQ(marks.BlocksToRefill(kPageblockOrder, 0, kNone), 2u);
  EXPECT_EQ(marks.high(), 32u + 5 * 8);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 8u);
}

TEST(PerCpuMarks612Test, RefillsRaiseNothingWhileTheZoneIsBelowHigh) {
  PerCpuMarks marks = Marks();
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kBelowHigh), 4u);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kBelowHigh), 8u);
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kBelowHigh), 12u);  // 16 - 4
  EXPECT_EQ(marks.high(), 16u);
}

TEST(PerCpuMarks612Test, WhereHighIsBelowABatchOneBlockMoves) {
  PerCpuMarks marks = Marks({.batch = 8, .high = 4});
  EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 1u);
  EXPECT_EQ(marks.BlocksToRefill(Order(3), 0, kNone), 1u);
  FreePages(marks, 0, 3);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 4, kNone), 1u);
}

// The kernel would return nothing there, however long the lists.
TEST(PerCpuMarks612Test, WhereHighIsABatchListsDoNotGrow) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 4});
  EXPECT_EQ(marks.PagesToReturn(Order(0), 4, kNone), 1u);
}

// Returns --------------------------------------------------------------------

// As many pages as were freed since the last allocations, but a batch stays
// below the mark; which rises so that the next return may be of as many.
TEST(PerCpuMarks612Test, ReturnsGrowWithWhatIsFreedAndRaiseTheHighMark) {
  PerCpuMarks marks = Marks();
  uint64_t count = 0;
  // The mark that is reached, and the one after it.
  for (const auto& [at, next] :
       {std::pair(16u, 20u), {20, 36}, {36, 68}, {68, 100}, {100, 100}}) {
    FreePages(marks, count, at - 1 - count);
    EXPECT_EQ(marks.PagesToReturn(Order(0), at, kNone), at - 4u);
    EXPECT_EQ(marks.high(), next);
    count = 4;
  }
}

// 16 pages were freed; after two allocations they count as four, after three
// more as none. At least a batch is returned.
TEST(PerCpuMarks612Test, EachAllocationHalvesWhatWasFreed) {
  PerCpuMarks marks = Marks();
  FreePages(marks, 0, 15);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 16, kNone), 12u);
  for (int i = 0; i < 2; ++i) marks.OnAllocate();
  EXPECT_EQ(marks.PagesToReturn(Order(0), 20, kNone), 5u);
  for (int i = 0; i < 3; ++i) marks.OnAllocate();
  EXPECT_EQ(marks.PagesToReturn(Order(0), 20, kNone), 4u);
  EXPECT_EQ(marks.high(), 20u);
}

// A pageblock counts as 512 pages, after which no more is added.
TEST(PerCpuMarks612Test, WhatWasFreedCountsUpTo32Batches) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 1000, .high_max = 10'000});
  FreePages(marks, 0, 127);
  EXPECT_EQ(marks.PagesToReturn(kPageblockOrder, 700, kNone), 0u);
  FreePages(marks, 0, 10);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 1000, kNone), 127u + 512);
}

TEST(PerCpuMarks612Test, EqualLimitsAreNotTuned) {
  for (const uint32_t max : {0, 16}) {
    PerCpuMarks marks = Marks({.batch = 4, .high = 16, .high_max = max});
    EXPECT_EQ(marks.BlocksToRefill(Order(0), 0, kNone), 4u);
    FreePages(marks, 0, 15);
    EXPECT_EQ(marks.PagesToReturn(Order(0), 16, kNone), 12u);
    // Nor do they shrink.
    EXPECT_EQ(marks.PagesToReturn(Order(0), 15, kBelowHigh), 0u);
    EXPECT_EQ(marks.high(), 16u);
  }
}

// Flushes --------------------------------------------------------------------

TEST(PerCpuMarks612Test, TwoFreesOfOrders1To3InARowFlushTheLists) {
  PerCpuMarks marks = Marks();
  // Fewer pages than a batch were freed before the second and the third.
  EXPECT_EQ(marks.PagesToReturn(Order(1), 2, kNone), 0u);
  EXPECT_EQ(marks.PagesToReturn(Order(1), 4, kNone), 0u);
  EXPECT_EQ(marks.PagesToReturn(Order(1), 6, kNone), 6u);
}

TEST(PerCpuMarks612Test, AFreeOfAnotherOrderInBetweenPreventsTheFlush) {
  for (const Order between : {Order(0), kPageblockOrder}) {
    PerCpuMarks marks = Marks({.batch = 4, .high = 2000, .high_max = 3000});
    EXPECT_EQ(marks.PagesToReturn(Order(3), 8, kNone), 0u);
    EXPECT_EQ(marks.PagesToReturn(between, 600, kNone), 0u);
    EXPECT_EQ(marks.PagesToReturn(Order(3), 608, kNone), 0u);
    EXPECT_EQ(marks.PagesToReturn(Order(3), 616, kNone), 128u);
  }
}

// Allocations that bring the pages freed lately under a batch.
TEST(PerCpuMarks612Test, AllocationsPreventTheFlush) {
  PerCpuMarks marks = Marks();
  EXPECT_EQ(marks.PagesToReturn(Order(2), 4, kNone), 0u);
  marks.OnAllocate();
  EXPECT_EQ(marks.PagesToReturn(Order(2), 4, kNone), 0u);
  EXPECT_EQ(marks.PagesToReturn(Order(2), 8, kNone), 8u);
}

// With a large cache a batch may stay.
TEST(PerCpuMarks612Test, AFlushNeedsABatchOnTheListsOnlyWithALargeCache) {
  for (const bool keeps : {true, false}) {
    PerCpuMarks marks = Marks({.batch = 4, .high = 16});
    marks.set_keeps_batch(keeps);
    EXPECT_EQ(marks.PagesToReturn(Order(2), 4, kNone), 0u);
    EXPECT_EQ(marks.PagesToReturn(Order(1), 3, kNone), keeps ? 0u : 3u);
    EXPECT_EQ(marks.PagesToReturn(Order(1), 4, kNone), 4u);
  }
}

TEST(PerCpuMarks612Test, AFlushIsOf32BatchesAndLowersTheMarkByAsMuch) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 16, .high_max = 400});
  marks.set_high(300);
  EXPECT_EQ(marks.PagesToReturn(Order(2), 200, kNone), 0u);
  EXPECT_EQ(marks.PagesToReturn(Order(2), 204, kNone), 128u);
  EXPECT_EQ(marks.high(), 172u);
  EXPECT_EQ(marks.PagesToReturn(Order(2), 80, kNone), 80u);
  EXPECT_EQ(marks.PagesToReturn(Order(2), 4, kNone), 4u);
  EXPECT_EQ(marks.high(), 16u);
}

// Pressure -------------------------------------------------------------------

// Each free lowers the mark by a batch, or by what was freed lately, and the
// lists return what they have above the least mark.
TEST(PerCpuMarks612Test, BelowHighTheListsShrinkToTheLeastMark) {
  PerCpuMarks marks = Marks();
  marks.set_high(40);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 15, kBelowHigh), 0u);
  EXPECT_EQ(marks.high(), 36u);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 20, kBelowHigh), 4u);
  EXPECT_EQ(marks.high(), 32u);
  // Ten pages freed lately; all but a batch of the 10 may go.
  EXPECT_EQ(marks.PagesToReturn(Order(3), 30, kBelowHigh), 10u);
  EXPECT_EQ(marks.high(), 22u);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 16, kBelowHigh), 11u);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 6, kBelowHigh), 0u);
  EXPECT_EQ(marks.high(), 16u);
}

// They keep four batches, whatever the mark.
TEST(PerCpuMarks612Test, WhileReclaimIsActiveTheListsKeepFourBatches) {
  PerCpuMarks marks = Marks({.batch = 4, .high = 30, .high_max = 100});
  marks.set_high(40);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 15, kReclaimActive), 0u);
  EXPECT_EQ(marks.high(), 36u);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 16, kReclaimActive), 4u);
  EXPECT_EQ(marks.high(), 32u);
  EXPECT_EQ(marks.PagesToReturn(Order(0), 25, kReclaimActive), 4u);
  EXPECT_EQ(marks.high(), 30u);
  // Nor more than a mark that is not tuned.
  PerCpuMarks fixed = Marks({.batch = 4, .high = 10});
  EXPECT_EQ(fixed.PagesToReturn(Order(0), 9, kReclaimActive), 0u);
  EXPECT_EQ(fixed.PagesToReturn(Order(0), 10, kReclaimActive), 4u);
}

// Decay ----------------------------------------------------------------------

TEST(PerCpuMarks612Test, DecayTakesAnEighthOfTheMark) {
  PerCpuMarks marks = Marks();
  marks.set_high(80);
  EXPECT_EQ(marks.Decay(0), 0u);
  EXPECT_EQ(marks.high(), 70u);
  EXPECT_EQ(marks.Decay(90), 28u);
  EXPECT_EQ(marks.high(), 62u);
  for (const uint32_t high : {55, 49, 43, 38, 34, 30, 27, 24, 21, 19, 17, 16}) {
    EXPECT_EQ(marks.Decay(0), 0u);
    EXPECT_EQ(marks.high(), high);
  }
  EXPECT_EQ(marks.Decay(18), 2u);
}

TEST(PerCpuMarks612Test, DecayReturnsAtMost32Batches) {
  PerCpuMarks marks = Marks({.batch = 1, .high = 4, .high_max = 1000});
  marks.set_high(800);
  EXPECT_EQ(marks.Decay(800), 32u);
  EXPECT_EQ(marks.high(), 768u);
}

TEST(PerCpuMarksTest, OlderKernelsDoNotDecay) {
  for (const KernelVersion version :
       {KernelVersion::kV5_3, KernelVersion::kV6_1}) {
    PerCpuMarks marks(version, {.batch = 4, .high = 16, .high_max = 100});
    EXPECT_EQ(marks.Decay(50), 0u);
    marks.set_high(60);
    EXPECT_EQ(marks.high(), 16u);
  }
}

// Limits that change keep the mark, within the new ones.
TEST(PerCpuMarks612Test, NewLimitsBoundTheMark) {
  PerCpuMarks marks = Marks();
  marks.set_high(50);
  marks.SetLimits({.batch = 4, .high = 20, .high_max = 60});
  EXPECT_EQ(marks.high(), 50u);
  marks.SetLimits({.batch = 4, .high = 20, .high_max = 40});
  EXPECT_EQ(marks.high(), 40u);
  marks.SetLimits({.batch = 4, .high = 70, .high_max = 90});
  EXPECT_EQ(marks.high(), 70u);
}

// The fast path ---------------------------------------------------------------

// On any program, whether or not the fast path is tried first.
TEST(PerCpuMarks612Test, TheFastPathDiffersInNothing) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    PerCpuMarks fast = Marks();
    PerCpuMarks slow = Marks();
    uint64_t count = 0;
    uint64_t kept = 0;
    for (int step = 0; step < 500; ++step) {
      const auto pressure =
          random.OneIn(8) ? static_cast<ZonePressure>(random.Below(3)) : kNone;
      const Order order(static_cast<int>(random.Below(3)));
      if (random.OneIn(3)) {
        const uint64_t pages = std::min(count, order.pages().value());
        fast.OnAllocate();
        slow.OnAllocate();
        if (pages == 0) {
          const uint64_t blocks = slow.BlocksToRefill(order, count, pressure);
          ASSERT_EQ(fast.BlocksToRefill(order, count, pressure), blocks);
          count += blocks * order.pages().value();
        }
        count -= pages;
      } else {
        count += order.pages().value();
        const uint64_t pages = slow.PagesToReturn(order, count, pressure);
        if (count < fast.high() && fast.Keeps612(order, pressure)) {
          ++kept;
          ASSERT_EQ(pages, 0u);
        } else {
          ASSERT_EQ(fast.PagesToReturn(order, count, pressure), pages);
        }
        ASSERT_LE(pages, count);
        count -= pages;
      }
      ASSERT_EQ(fast.high(), slow.high());
    }
    EXPECT_GT(kept, 50u);
  }
}

}  // namespace
}  // namespace guestmm::per_cpu_marks_test
