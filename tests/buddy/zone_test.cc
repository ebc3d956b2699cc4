// Allocating, freeing, merging and the order of the free lists. Isolation and
// the observer are in zone_isolation_test.cc.

#include "guestmm/buddy/zone.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <vector>

#include "guestmm/base/lock.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ZoneTest, NamesOfTypesAreTheKernels) {
  EXPECT_EQ(Name(ZoneType::kDma32), "DMA32");
  EXPECT_EQ(Name(ZoneType::kNormal), "Normal");
  EXPECT_EQ(Name(static_cast<ZoneType>(7)), "unknown");
}

// Memory

TEST(ZoneMemoryTest, AnAlignedRangeIsOneBlock) {
  TinyZone zone(16);
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_THAT(zone.List(4), ElementsAre(0));
  EXPECT_EQ(zone->managed_pages(), PageCount(16));
  EXPECT_EQ(zone->free_pages(), PageCount(16));
}

TEST(ZoneMemoryTest, CrookedEndsBecomeSmallerBlocks) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(3), Pfn(14)}});
  EXPECT_EQ(zone.Picture(), "...FF---F---F-..");
  EXPECT_THAT(zone.List(0), ElementsAre(3));
  EXPECT_THAT(zone.List(1), ElementsAre(12));
  EXPECT_EQ(zone->managed_pages(), PageCount(11));
}

TEST(ZoneMemoryTest, BlocksEndAtTheLargestOrder) {
  TinyZone zone(16, Order(2));
  EXPECT_EQ(zone.Picture(), "F---F---F---F---");
}

// Boot frees ascending and pushes at the head, so the highest comes first.
TEST(ZoneMemoryTest, TheHighestBlockOfBootIsFirst) {
  TinyZone zone(16, Order(2));
  EXPECT_THAT(zone.List(2), ElementsAre(12, 8, 4, 0));
}

TEST(ZoneMemoryTest, NeighbouringRangesMerge) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(4), Pfn(8)}});
  zone->AddMemory({Pfn(0), Pfn(4)});
  EXPECT_EQ(zone.Picture(), "F-------........");
  zone->AddMemory({Pfn(8), Pfn(16)});
  EXPECT_EQ(zone.Picture(), "F---------------");
}

TEST(ZoneMemoryTest, AnEmptyRangeAddsNothing) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(4), Pfn(4)}});
  EXPECT_EQ(zone.Picture(), "................");
  EXPECT_EQ(zone->managed_pages(), PageCount(0));
  EXPECT_EQ(zone.Allocate(0), std::nullopt);
}

// The pages of zone [6, 16) beside those of zone [0, 6), on one map.
TEST(ZoneMemoryTest, BlocksDoNotMergeAcrossAZonesBorder) {
  const auto pages = PageMap::Create(Pfn(16), 2 * Zone::kListHeads).value();
  Zone low({.span = {Pfn(0), Pfn(6)}}, *pages);
  Zone high({.span = {Pfn(6), Pfn(16)}}, *pages);
  low.AddMemory({Pfn(0), Pfn(6)});
  high.AddMemory({Pfn(6), Pfn(16)});
  // F---F-F-F-------: 4 and 6 are buddies, and stay two.
  EXPECT_TRUE(pages->Is(Pfn(4), PageState::kFree, Order(1)));
  EXPECT_TRUE(pages->Is(Pfn(6), PageState::kFree, Order(1)));
  LockHolder hold(high.lock());
  EXPECT_EQ(high.FreeBlockAt(Pfn(4)), std::nullopt);
  EXPECT_EQ(high.FreeBlockAt(Pfn(6)), Order(1));
  EXPECT_TRUE(high.CheckInvariants().ok());
}

TEST(ZoneMemoryTest, BlocksDoNotMergeIntoAHole) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(8)}, {{Pfn(0), Pfn(3)}, {Pfn(4), Pfn(8)}});
  EXPECT_EQ(zone.Picture(), "F-F.F---");
  EXPECT_EQ(zone.Allocate(0), Pfn(2));
  zone.Free(2, 0);
  EXPECT_EQ(zone.Picture(), "F-F.F---");
}

TEST(ZoneMemoryDeathTest, PagesGivenTwice) {
  TinyZone zone(16);
  EXPECT_DEATH(zone->AddMemory({Pfn(7), Pfn(8)}),
               "pfn 0x7 was given to the allocator twice");
}

TEST(ZoneMemoryDeathTest, PagesOutsideTheSpan) {
  TinyZone zone(PfnRange{Pfn(4), Pfn(8)}, {});
  EXPECT_DEATH(zone->AddMemory({Pfn(3), Pfn(8)}), "span\\(\\).start <=");
  EXPECT_DEATH(zone->AddMemory({Pfn(4), Pfn(9)}), "<= span\\(\\).end");
}

TEST(ZoneMemoryDeathTest, ASpanOutsideThePageMap) {
  const auto pages = PageMap::Create(Pfn(16), Zone::kListHeads).value();
  EXPECT_DEATH(Zone({.span = {Pfn(0), Pfn(17)}}, *pages),
               "options.span.end <= pages.end\\(\\)");
}

TEST(ZoneMemoryDeathTest, OrdersBeyondTheLists) {
  const auto pages = PageMap::Create(Pfn(16), Zone::kListHeads).value();
  EXPECT_DEATH(
      Zone({.span = {Pfn(0), Pfn(16)}, .max_order = Order(11)}, *pages),
      "options.max_order <= kMaxOrder");
}

// Allocating

// __rmqueue_smallest, expand: the lower half is kept, the upper halves go to
// the heads of their lists, the largest first.
TEST(ZoneAllocateTest, SplitsKeepTheLowerHalf) {
  TinyZone zone(16);
  EXPECT_EQ(zone.Allocate(0), Pfn(0));
  EXPECT_EQ(zone.Picture(), "AFF-F---F-------");
  EXPECT_THAT(zone.List(0), ElementsAre(1));
  EXPECT_THAT(zone.List(1), ElementsAre(2));
  EXPECT_THAT(zone.List(2), ElementsAre(4));
  EXPECT_THAT(zone.List(3), ElementsAre(8));
  EXPECT_THAT(zone.List(4), IsEmpty());
  EXPECT_EQ(zone->free_pages(), PageCount(15));
}

TEST(ZoneAllocateTest, TheSmallestOrderThatHasABlockIsSplit) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(2), Pfn(16)}});
  EXPECT_EQ(zone.Picture(), "..F-F---F-------");
  EXPECT_EQ(zone.Allocate(0), Pfn(2));
  EXPECT_EQ(zone.Allocate(2), Pfn(4));
  EXPECT_EQ(zone.Allocate(1), Pfn(8));
  EXPECT_EQ(zone.Picture(), "..AFA---A-F-F---");
}

TEST(ZoneAllocateTest, TheHeadOfTheListIsTaken) {
  TinyZone zone(16, Order(2));
  // List of order 2: 12 8 4 0.
  EXPECT_EQ(zone.Allocate(2), Pfn(12));
  EXPECT_EQ(zone.Allocate(2), Pfn(8));
  EXPECT_THAT(zone.List(2), ElementsAre(4, 0));
}

TEST(ZoneAllocateTest, NoneWhereNoBlockIsLargeEnough) {
  TinyZone zone(16, Order(2));
  EXPECT_EQ(zone.Allocate(3), std::nullopt);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(zone.Allocate(2));
  EXPECT_EQ(zone.Allocate(0), std::nullopt);
  EXPECT_EQ(zone.Picture(), "A---A---A---A---");
}

TEST(ZoneAllocateTest, BulkTakesCachedPagesInOrderAndSaysHowMany) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(16)}, {{Pfn(3), Pfn(8)}});
  std::array<Pfn, 4> pages;
  {
    LockHolder hold(zone->lock());
    EXPECT_EQ(zone->AllocateBulk(pages), 4);
  }
  EXPECT_THAT(pages, ElementsAre(Pfn(3), Pfn(4), Pfn(5), Pfn(6)));
  EXPECT_EQ(zone.Picture(), "...CCCCF........");
  LockHolder hold(zone->lock());
  EXPECT_EQ(zone->AllocateBulk(pages), 1);
  EXPECT_EQ(zone->AllocateBulk(pages), 0);
}

// Freeing

TEST(ZoneFreeTest, MergesOrderByOrderUpToTheWhole) {
  TinyZone zone(16);
  zone.AllocatePages(1);
  EXPECT_EQ(zone.Picture(), "AFF-F---F-------");
  zone.Free(0, 0);
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_THAT(zone.List(4), ElementsAre(0));
  for (int order = 0; order < 4; ++order) {
    EXPECT_THAT(zone.List(order), IsEmpty());
  }
  EXPECT_EQ(zone->free_pages(), PageCount(16));
}

TEST(ZoneFreeTest, MergesWithALowerAndWithAnUpperBuddy) {
  TinyZone zone(16);
  zone.AllocatePages(4);
  EXPECT_EQ(zone.Picture(), "AAAAF---F-------");
  zone.Free(0, 0);
  zone.Free(1, 0);  // upper to lower
  EXPECT_EQ(zone.Picture(), "F-AAF---F-------");
  zone.Free(3, 0);
  EXPECT_EQ(zone.Picture(), "F-AFF---F-------");
  zone.Free(2, 0);  // lower to upper, then all the way
  EXPECT_EQ(zone.Picture(), "F---------------");
}

TEST(ZoneFreeTest, NeighboursThatAreNotBuddiesStayApart) {
  TinyZone zone(16);
  zone.AllocatePages(4);
  zone.Free(1, 0);
  zone.Free(2, 0);
  EXPECT_EQ(zone.Picture(), "AFFAF---F-------");
}

TEST(ZoneFreeTest, ABuddyInSmallerPiecesDoesNotMerge) {
  TinyZone zone(16);
  EXPECT_EQ(zone.Allocate(1), Pfn(0));
  EXPECT_EQ(zone.Allocate(0), Pfn(2));
  EXPECT_EQ(zone.Picture(), "A-AFF---F-------");
  zone.Free(0, 1);
  EXPECT_EQ(zone.Picture(), "F-AFF---F-------");
}

TEST(ZoneFreeTest, MergingEndsAtTheLargestOrder) {
  TinyZone zone(16, Order(2));
  EXPECT_EQ(zone.Allocate(0), Pfn(12));
  EXPECT_EQ(zone.Picture(), "F---F---F---AFF-");
  zone.Free(12, 0);
  EXPECT_EQ(zone.Picture(), "F---F---F---F---");
}

TEST(ZoneFreeTest, BulkFreesCachedPagesInOrder) {
  TinyZone zone(16);
  std::array<Pfn, 8> pages;
  {
    LockHolder hold(zone->lock());
    zone->AllocateBulk(pages);
    const std::array<Pfn, 3> freed = {Pfn(6), Pfn(1), Pfn(3)};
    EXPECT_EQ(zone->FreeBulk(freed), nullptr);
  }
  EXPECT_EQ(zone.Picture(), "CFCFCCFCF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(3, 1, 6));
}

// Where on its list a freed block goes (__free_one_page, done_merging)

TEST(ZoneListOrderTest, AFreedBlockGoesToTheHead) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  for (const uint64_t pfn : {0, 4, 2}) zone.Free(pfn, 0);
  EXPECT_EQ(zone.Picture(), "FAFAFAAAF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(2, 4, 0));
}

// Page 0's pair is [0, 2). Its buddy [2, 4) is free: once page 1 is freed too,
// the two pairs merge, so page 0 waits at the tail.
TEST(ZoneListOrderTest, ABlockLikelyToMergeGoesToTheTail) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  zone.Free(5, 0);
  zone.Free(2, 0);
  zone.Free(3, 0);
  EXPECT_EQ(zone.Picture(), "AAF-AFAAF-------");
  zone.Free(0, 0);
  EXPECT_THAT(zone.List(0), ElementsAre(5, 0));
  EXPECT_EQ(zone.Allocate(0), Pfn(5));
}

// The upper page of the pair is no different from the lower.
TEST(ZoneListOrderTest, TheUpperHalfOfAPairWaitsAtTheTailToo) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  zone.Free(5, 0);
  zone.Free(2, 0);
  zone.Free(3, 0);
  zone.Free(1, 0);
  EXPECT_EQ(zone.Picture(), "AFF-AFAAF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(5, 1));
}

// Of [2, 4) only page 2 is free.
TEST(ZoneListOrderTest, HalfAFreePairIsNoReasonForTheTail) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  zone.Free(5, 0);
  zone.Free(2, 0);
  EXPECT_EQ(zone.Picture(), "AAFAAFAAF-------");
  zone.Free(0, 0);
  EXPECT_THAT(zone.List(0), ElementsAre(0, 2, 5));
}

// A block that merged first is judged by the order it has then.
TEST(ZoneListOrderTest, TheTailIsDecidedAfterMerging) {
  TinyZone zone(32);
  zone.AllocatePages(16);
  zone.Free(8, 0);
  zone.Free(9, 0);
  for (uint64_t pfn = 4; pfn < 8; ++pfn) zone.Free(pfn, 0);
  EXPECT_EQ(zone.Picture(), "AAAAF---F-AAAAAAF---------------");
  zone.Free(0, 0);
  EXPECT_THAT(zone.List(0), ElementsAre(0));
  zone.Free(1, 0);  // [0, 2) beside the free [4, 8): behind [8, 10)
  EXPECT_EQ(zone.Picture(), "F-AAF---F-AAAAAAF---------------");
  EXPECT_THAT(zone.List(1), ElementsAre(8, 0));
}

// order < MAX_ORDER - 2 in the kernel.
TEST(ZoneListOrderTest, OneBelowTheLargestOrderGoesToTheHead) {
  TinyZone zone(16, Order(2));
  for (int i = 0; i < 6; ++i) zone.Allocate(1);
  EXPECT_EQ(zone.Picture(), "F---A-A-A-A-A-A-");
  zone.Free(12, 1);
  zone.Free(4, 1);  // the buddy of its pair, [0, 4), is free
  EXPECT_EQ(zone.Picture(), "F---F-A-A-A-F-A-");
  EXPECT_THAT(zone.List(1), ElementsAre(4, 12));
}

TEST(ZoneListOrderTest, TwoBelowTheLargestOrderMayWaitAtTheTail) {
  TinyZone zone(8, Order(2));
  zone.AllocatePages(8);
  for (const uint64_t pfn : {4, 2, 3, 0}) zone.Free(pfn, 0);
  EXPECT_EQ(zone.Picture(), "FAF-FAAA");
  EXPECT_THAT(zone.List(0), ElementsAre(4, 0));
}

// [4, 6) is zone low, the free [6, 8) zone high: the map is the same but page 4
// does not wait for a merge that cannot be.
TEST(ZoneListOrderTest, AFreePairOfAnotherZoneIsNoReasonForTheTail) {
  const auto pages = PageMap::Create(Pfn(8), 2 * Zone::kListHeads).value();
  Zone low({.span = {Pfn(0), Pfn(6)}}, *pages);
  Zone high({.span = {Pfn(6), Pfn(8)}}, *pages);
  low.AddMemory({Pfn(0), Pfn(6)});
  high.AddMemory({Pfn(6), Pfn(8)});
  LockHolder hold(low.lock());
  for (int i = 0; i < 6; ++i) low.Allocate(Order(0));
  for (const uint64_t pfn : {0, 4}) {
    EXPECT_EQ(low.Free(Pfn(pfn), Order(0)), nullptr);
  }
  std::vector<uint64_t> list;
  low.ForEachFreeBlock(Order(0), [&](Pfn pfn) { list.push_back(pfn.value()); });
  EXPECT_THAT(list, ElementsAre(4, 0));
}

// Misuse

TEST(ZoneFreeDeathTest, DoubleFree) {
  TinyZone zone(16);
  zone.AllocatePages(2);
  zone.Free(0, 0);
  EXPECT_DEATH(zone.Free(0, 0),
               "free of pfn 0x0, order 0, which is not allocated there in zone "
               "Normal");
}

// Its head is inside a larger free block by then.
TEST(ZoneFreeDeathTest, DoubleFreeOfABlockThatMerged) {
  TinyZone zone(16);
  zone.AllocatePages(2);
  zone.Free(0, 0);
  zone.Free(1, 0);
  EXPECT_DEATH(zone.Free(1, 0), "free of pfn 0x1, order 0, which is not");
}

TEST(ZoneFreeDeathTest, AtAWrongOrder) {
  TinyZone zone(16);
  zone.Allocate(1);
  EXPECT_DEATH(zone.Free(0, 0), "free of pfn 0x0, order 0, which is not");
  EXPECT_DEATH(zone.Free(0, 2), "free of pfn 0x0, order 2, which is not");
}

// 16 has no room in the four bits that a page's state has for its order.
TEST(ZoneFreeDeathTest, AtAnOrderThatNoPageCanHave) {
  TinyZone zone(16);
  zone.Allocate(0);
  for (const int order : {11, 16, 32, 48, 255}) {
    EXPECT_DEATH(zone.Free(0, order), "free of pfn 0x0, order") << order;
  }
}

TEST(ZoneFreeDeathTest, OfATail) {
  TinyZone zone(16);
  zone.Allocate(2);
  EXPECT_DEATH(zone.Free(1, 0), "free of pfn 0x1, order 0, which is not");
  EXPECT_DEATH(zone.Free(2, 1), "free of pfn 0x2, order 1, which is not");
}

TEST(ZoneFreeDeathTest, OfAPageOfNoOne) {
  TinyZone zone(PfnRange{Pfn(4), Pfn(16)}, {{Pfn(4), Pfn(8)}});
  EXPECT_DEATH(zone.Free(3, 0), "free of pfn 0x3, order 0, which is not");
  EXPECT_DEATH(zone.Free(9, 0), "free of pfn 0x9, order 0, which is not");
  EXPECT_DEATH(zone.Free(uint64_t{1} << 40, 0), "free of pfn 0x10000000000");
}

TEST(ZoneFreeDeathTest, OfACachedPage) {
  TinyZone zone(16);
  std::array<Pfn, 1> pages;
  {
    LockHolder hold(zone->lock());
    zone->AllocateBulk(pages);
  }
  EXPECT_DEATH(zone.Free(0, 0), "order 0, which is not allocated there");
}

}  // namespace
}  // namespace guestmm
