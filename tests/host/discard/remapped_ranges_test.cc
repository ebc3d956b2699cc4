#include "src/host/discard/remapped_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bitset>
#include <cstdint>

#include "guestmm/base/random.h"

namespace guestmm::remapped_ranges_test {
namespace {

GpaRange At(uint64_t start, uint64_t bytes) { return {Gpa(start), bytes}; }

TEST(RemappedRangesTest, IsInitiallyEmpty) {
  const RemappedRanges ranges(2);
  EXPECT_FALSE(ranges.Contains(At(0, 1)));
  EXPECT_TRUE(ranges.HasRoomFor(At(0, 1)));
  EXPECT_FALSE(RemappedRanges(1).HasRoomFor(At(0, 1)));
}

TEST(RemappedRangesTest, ContainsWhatWasAddedInPieces) {
  RemappedRanges ranges(100);
  ranges.Add(At(2, 2));  // [..##....]
  ranges.Add(At(5, 1));  // [..##.#..]
  EXPECT_TRUE(ranges.Contains(At(3, 1)));
  EXPECT_FALSE(ranges.Contains(At(3, 2)));
  ranges.Add(At(4, 1));  // [..####..]
  EXPECT_TRUE(ranges.Contains(At(2, 4)));
  EXPECT_FALSE(ranges.Contains(At(1, 2)));
  EXPECT_FALSE(ranges.Contains(At(5, 2)));
}

// [.#.#....]: four boundaries.
TEST(RemappedRangesTest, HasRoomIfNoBoundaryIsAdded) {
  RemappedRanges ranges(4);
  ranges.Add(At(1, 1));
  ranges.Add(At(3, 1));
  EXPECT_FALSE(ranges.HasRoomFor(At(6, 1)));  // two more
  EXPECT_FALSE(ranges.HasRoomFor(At(4, 1)));  // one more
  EXPECT_TRUE(ranges.HasRoomFor(At(2, 1)));   // the same
  EXPECT_TRUE(ranges.HasRoomFor(At(0, 8)));   // two for four
  ranges.Add(At(1, 3));
  EXPECT_TRUE(ranges.HasRoomFor(At(6, 1)));
}

// Compared with a bit per page, from which boundaries are counted.
TEST(RemappedRangesTest, AgreesWithABitmap) {
  constexpr uint64_t kPages = 64;
  Random random(1);
  for (int run = 0; run < 100; ++run) {
    const uint64_t limit = 4 + random.Below(20);
    RemappedRanges ranges(limit);
    std::bitset<kPages> pages;
    std::bitset<kPages + 1> boundaries;
    for (int step = 0; step < 50; ++step) {
      const uint64_t start = random.Below(kPages);
      const uint64_t bytes =
          1 + random.Below(std::min<uint64_t>(8, kPages - start));
      bool contains = true;
      for (uint64_t i = start; i < start + bytes; ++i) contains &= pages[i];
      ASSERT_EQ(ranges.Contains(At(start, bytes)), contains);
      std::bitset<kPages + 1> then = boundaries;
      for (uint64_t i = start + 1; i < start + bytes; ++i) then.reset(i);
      then.set(start).set(start + bytes);
      const bool room = then.count() <= std::max(limit, boundaries.count());
      ASSERT_EQ(ranges.HasRoomFor(At(start, bytes)), room);
      if (contains || !room) continue;
      ranges.Add(At(start, bytes));
      for (uint64_t i = start; i < start + bytes; ++i) pages.set(i);
      boundaries = then;
    }
  }
}

}  // namespace
}  // namespace guestmm::remapped_ranges_test
