#include "src/experiment/replay/listed_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "guestmm/base/random.h"

namespace guestmm::listed_blocks_test {
namespace {

TEST(ListedBlocksTest, ABlockIsFoundByItsPage) {
  ListedBlocks blocks(Pfn(64));
  const ListedBlocks::Index list = blocks.MakeList();
  EXPECT_EQ(blocks.Oldest(list), ListedBlocks::kNone);
  blocks.AddNewest(list, Pfn(8), Order(3));
  const ListedBlocks::Index at = blocks.Find(Pfn(8));
  ASSERT_NE(at, ListedBlocks::kNone);
  EXPECT_EQ(blocks[at].pfn, Pfn(8));
  EXPECT_EQ(blocks[at].order, Order(3));
  EXPECT_EQ(blocks[at].list, list);
  EXPECT_FALSE(blocks[at].assumed);
  EXPECT_FALSE(blocks.Has(Pfn(9)));
  EXPECT_EQ(blocks.Remove(at).pfn, Pfn(8));
  EXPECT_FALSE(blocks.Has(Pfn(8)));
}

// Of two lists, whose blocks are added at both ends and leave in any order.
TEST(ListedBlocksTest, AgreesWithDeques) {
  constexpr uint64_t kPages = 40;
  constexpr uint64_t kSeed = 5;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  ListedBlocks blocks{Pfn(kPages)};
  const ListedBlocks::Index lists[] = {blocks.MakeList(), blocks.MakeList()};
  // Newest first.
  std::deque<uint64_t> naive[2];
  for (int step = 0; step < 5000; ++step) {
    const uint64_t page = random.Below(kPages);
    const size_t list = random.Below(2);
    if (blocks.Has(Pfn(page))) {
      const size_t its =
          blocks[blocks.Find(Pfn(page))].list == lists[0] ? 0 : 1;
      const auto at = std::find(naive[its].begin(), naive[its].end(), page);
      ASSERT_NE(at, naive[its].end());
      naive[its].erase(at);
      blocks.Remove(blocks.Find(Pfn(page)));
    } else if (random.Below(2) == 0) {
      blocks.AddNewest(lists[list], Pfn(page), Order(0));
      naive[list].push_front(page);
    } else {
      blocks.AddOldest(lists[list], Pfn(page), Order(0));
      naive[list].push_back(page);
    }
    for (size_t i = 0; i < 2; ++i) {
      const ListedBlocks::Index oldest = blocks.Oldest(lists[i]);
      ASSERT_EQ(oldest == ListedBlocks::kNone, naive[i].empty());
      if (!naive[i].empty()) {
        ASSERT_EQ(blocks[oldest].pfn, Pfn(naive[i].back()));
      }
    }
  }
  for (size_t i = 0; i < 2; ++i) {
    for (; !naive[i].empty(); naive[i].pop_back()) {
      ASSERT_EQ(blocks.Remove(blocks.Oldest(lists[i])).pfn,
                Pfn(naive[i].back()));
    }
    EXPECT_EQ(blocks.Oldest(lists[i]), ListedBlocks::kNone);
  }
}

}  // namespace
}  // namespace guestmm::listed_blocks_test
