#include "src/virtio/device/ballooned_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guestmm::ballooned_pages_test {
namespace {

TEST(BalloonedPages, EachPageGoesInAndComesOutOnce) {
  BalloonedPages pages;
  EXPECT_FALSE(pages.Erase(Pfn(5)));
  EXPECT_TRUE(pages.Insert(Pfn(5)));
  EXPECT_FALSE(pages.Insert(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(6)));
  EXPECT_TRUE(pages.Erase(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(5)));
}
TEST(BalloonedPages, HoldsTheLastPageOfAChunkAndTheFirstOfTheNext) {
  BalloonedPages pages;
  EXPECT_TRUE(pages.Insert(Pfn(511)));
  EXPECT_TRUE(pages.Insert(Pfn(512)));
  EXPECT_TRUE(pages.Insert(Pfn(0xffffffff)));
  EXPECT_TRUE(pages.Erase(Pfn(511)));
  EXPECT_TRUE(pages.Erase(Pfn(512)));
  EXPECT_TRUE(pages.Erase(Pfn(0xffffffff)));
}
// So the host's memory is bounded by what is in the balloon, not by what was.
TEST(BalloonedPages, KeepsNothingOfPagesThatCameOut) {
  BalloonedPages pages;
  constexpr uint64_t kAll = uint64_t{1} << 32;
  for (uint64_t page = 7; page < kAll; page += kAll / 4096) {
    pages.Insert(Pfn(page));
    pages.Insert(Pfn(page + 1));
    EXPECT_EQ(pages.chunks(), 1u);
    pages.Erase(Pfn(page + 1));
    EXPECT_EQ(pages.chunks(), 1u);
    pages.Erase(Pfn(page));
    EXPECT_EQ(pages.chunks(), 0u);
  }
}
TEST(BalloonedPages, ClearTakesAllOut) {
  BalloonedPages pages;
  pages.Insert(Pfn(5));
  pages.Insert(Pfn(5000));
  pages.Clear();
  EXPECT_FALSE(pages.Erase(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(5000)));
}
// Granules of 1 page, a few pages, a word of the bitmap, several words, and a
// chunk. The last page to be added completes the granule, wherever it is.
TEST(BalloonedPages, AGranuleIsWholeWithItsLastPage) {
  for (const uint64_t granule : {1, 2, 32, 64, 128, 512}) {
    for (const uint64_t last : {uint64_t{0}, granule / 2, granule - 1}) {
      BalloonedPages pages;
      const uint64_t start = 1024 + granule * (granule < 512 ? 3 : 0);
      for (uint64_t page = 0; page < granule; ++page) {
        if (page != last) pages.Insert(Pfn(start + page));
      }
      EXPECT_EQ(pages.WholeRange(Pfn(start), granule).bytes, 0u);
      pages.Insert(Pfn(start + last));
      EXPECT_EQ(pages.WholeRange(Pfn(start + last), granule),
                (GpaRange{ToGpa(Pfn(start)), granule * kPageSize}));
      EXPECT_EQ(pages.WholeRange(Pfn(start + granule), granule).bytes, 0u);
    }
  }
}

}  // namespace
}  // namespace guestmm::ballooned_pages_test
