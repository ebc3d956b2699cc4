// Allocating, freeing, merging and the order of the free lists. Isolation and
// the observer are in zone_isolation_test.cc.

#include "guestmm/buddy/zone.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/lock.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Allocates movable pages until there is none.
size_t AllocateBulk(Zone& zone, std::span<Pfn> pages)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
  return zone.AllocateBulk(pages, Order(0), MigrateType::kMovable,
                           Mixing::kAllow);
}

TEST(ZoneTest, NamesOfTypesAreTheKernels) {
  EXPECT_EQ(Name(ZoneType::kDma), "DMA");
  EXPECT_EQ(Name(ZoneType::kDma32), "DMA32");
  EXPECT_EQ(Name(ZoneType::kNormal), "Normal");
  EXPECT_EQ(Name(ZoneType::kMovable), "Movable");
  EXPECT_EQ(Name(static_cast<ZoneType>(7)), "unknown");
}

TEST(ZoneTest, NamesOfMigrateTypesAreTheKernels) {
  EXPECT_EQ(Name(MigrateType::kUnmovable), "Unmovable");
  EXPECT_EQ(Name(MigrateType::kMovable), "Movable");
  EXPECT_EQ(Name(MigrateType::kReclaimable), "Reclaimable");
  EXPECT_EQ(Name(MigrateType::kHighAtomic), "HighAtomic");
  EXPECT_EQ(Name(MigrateType::kIsolate), "Isolate");
  EXPECT_EQ(Name(static_cast<MigrateType>(7)), "unknown");
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

// At boot, blocks are freed ascending and inserted at the head, so the highest
// comes first.
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

// Two zones on one map, with pageblocks of two pages.
class TwoZones {
 public:
  // Zone 0 has [0, border), zone 1 [border, end).
  TwoZones(uint64_t border, uint64_t end)
      : pages_(PageMap::Create({.end = Pfn(end),
                                .pageblock_order = Order(1),
                                .list_heads = 2 * Zone::kListHeads})
                   .value()) {
    low.AddMemory({Pfn(0), Pfn(border)});
    high.AddMemory({Pfn(border), Pfn(end)});
  }
  PageMap& pages() { return *pages_; }

 private:
  std::unique_ptr<PageMap> pages_;

 public:
  Zone low{{.type = ZoneType::kDma32, .index = 0}, *pages_};
  Zone high{{.type = ZoneType::kNormal, .index = 1}, *pages_};
};

// The pages of zone [6, 16) beside those of zone [0, 6).
TEST(ZoneMemoryTest, BlocksDoNotMergeAcrossAZonesBorder) {
  TwoZones zones(6, 16);
  // F---F-F-F-------: 4 and 6 are buddies, and stay two.
  EXPECT_TRUE(zones.pages().IsFree(Pfn(4), Order(1)));
  EXPECT_TRUE(zones.pages().IsFree(Pfn(6), Order(1)));
  LockHolder hold(zones.high.lock());
  EXPECT_EQ(zones.high.FreeBlockAt(Pfn(4)), std::nullopt);
  EXPECT_EQ(zones.high.FreeBlockAt(Pfn(6)), Order(1));
  EXPECT_TRUE(zones.high.CheckInvariants().ok());
}

// [0, 4) was allocated whole and is freed beside the free [4, 8) of zone high.
TEST(ZoneMemoryTest, AFreedBlockDoesNotMergeAcrossAZonesBorder) {
  TwoZones zones(4, 8);
  LockHolder hold(zones.low.lock());
  EXPECT_EQ(zones.low.Allocate(Order(2), MigrateType::kMovable), Pfn(0));
  EXPECT_EQ(zones.low.Free(Pfn(0), Order(2)), nullptr);
  EXPECT_EQ(zones.low.FreeBlockAt(Pfn(0)), Order(2));
  EXPECT_TRUE(zones.pages().IsFree(Pfn(4), Order(2)));
  EXPECT_TRUE(zones.low.CheckInvariants().ok());
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

TEST(ZoneMemoryDeathTest, PagesOfAPageblockOfAnotherZone) {
  TwoZones zones(6, 16);
  zones.pages().SetOffline(Pfn(5));
  EXPECT_DEATH(zones.high.AddMemory({Pfn(5), Pfn(6)}),
               "the pageblock of pfn 0x4 is another zone's");
}

// The map has entries for whole blocks of the largest order.
TEST(ZoneMemoryDeathTest, PagesBehindThePageMap) {
  TinyZone zone(16);
  EXPECT_EQ(zone.pages().end(), Pfn(1024));
  EXPECT_DEATH(zone->AddMemory({Pfn(1020), Pfn(1025)}),
               "range.end <= pages_.end\\(\\)");
}

TEST(ZoneMemoryDeathTest, OrdersBeyondTheLists) {
  const auto pages =
      PageMap::Create({.end = Pfn(16), .list_heads = Zone::kListHeads}).value();
  EXPECT_DEATH(Zone({.max_order = Order(11)}, *pages),
               "options.max_order <= kMaxOrder");
}

TEST(ZoneMemoryDeathTest, PageblocksAboveTheLargestOrder) {
  const auto pages =
      PageMap::Create({.end = Pfn(16), .list_heads = Zone::kListHeads}).value();
  EXPECT_DEATH(Zone({.max_order = Order(8)}, *pages),
               "pages.pageblock_order\\(\\) <= options.max_order");
}

// The span and the ranges follow the zone's memory.
TEST(ZoneMemoryTest, TheSpanGrowsWithTheMemory) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(32)}, {});
  EXPECT_EQ(zone->span(), PfnRange{});
  zone->AddMemory({Pfn(8), Pfn(12)});
  EXPECT_EQ(zone->span(), (PfnRange{Pfn(8), Pfn(12)}));
  zone->AddMemory({Pfn(24), Pfn(32)});
  zone->AddMemory({Pfn(2), Pfn(4)});
  EXPECT_EQ(zone->span(), (PfnRange{Pfn(2), Pfn(32)}));
  zone->AddMemory({Pfn(12), Pfn(24)});
  LockHolder hold(zone->lock());
  EXPECT_THAT(zone->ranges(),
              ElementsAre(PfnRange{Pfn(2), Pfn(4)}, PfnRange{Pfn(8), Pfn(32)}));
}

// Allocating

// __rmqueue_smallest, expand: keeps the lower half; inserts the upper halves at
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
    EXPECT_EQ(AllocateBulk(*zone, pages), 4);
  }
  EXPECT_THAT(pages, ElementsAre(Pfn(3), Pfn(4), Pfn(5), Pfn(6)));
  EXPECT_EQ(zone.Picture(), "...CCCCF........");
  LockHolder hold(zone->lock());
  EXPECT_EQ(AllocateBulk(*zone, pages), 1);
  EXPECT_EQ(AllocateBulk(*zone, pages), 0);
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
    AllocateBulk(*zone, pages);
    const std::array<Pfn, 2> newest_first = {Pfn(1), Pfn(6)};
    const std::array<Pfn, 1> second = {Pfn(3)};
    const std::array<Zone::CachedRun, 2> freed = {
        {{.blocks = newest_first, .order = Order(0)},
         {.blocks = second, .order = Order(0)}}};
    EXPECT_EQ(zone->FreeBulk(freed), nullptr);
  }
  EXPECT_EQ(zone.Picture(), "CFCFCCFCF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(3, 1, 6));
}

// Which end of its list a freed block is inserted at (__free_one_page,
// done_merging)

TEST(ZoneListOrderTest, AFreedBlockGoesToTheHead) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  for (const uint64_t pfn : {0, 4, 2}) zone.Free(pfn, 0);
  EXPECT_EQ(zone.Picture(), "FAFAFAAAF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(2, 4, 0));
}

// Page 0's pair is [0, 2). Its buddy [2, 4) is free: if page 1 is freed too,
// the two pairs merge, so page 0 is inserted at the tail.
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

// The same holds for the upper page of the pair.
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

// After a merge, the order of the merged block decides.
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

// [4, 6) is in zone low, the free [6, 8) in zone high: page 4 is not inserted
// at the tail for a merge that cannot happen.
TEST(ZoneListOrderTest, AFreePairOfAnotherZoneIsNoReasonForTheTail) {
  TwoZones zones(6, 8);
  Zone& low = zones.low;
  LockHolder hold(low.lock());
  for (int i = 0; i < 6; ++i) low.Allocate(Order(0), MigrateType::kMovable);
  for (const uint64_t pfn : {0, 4}) {
    EXPECT_EQ(low.Free(Pfn(pfn), Order(0)), nullptr);
  }
  std::vector<uint64_t> list;
  low.ForEachFreeBlock(Order(0), MigrateType::kMovable,
                       [&](Pfn pfn) { list.push_back(pfn.value()); });
  EXPECT_THAT(list, ElementsAre(4, 0));
}

// Misuse

TEST(ZoneFreeDeathTest, DoubleFree) {
  TinyZone zone(16);
  zone.AllocatePages(2);
  zone.Free(0, 0);
  EXPECT_DEATH(zone.Free(0, 0),
               "free of pfn 0x0, order 0, which is not allocated there in node "
               "0, zone Normal");
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

// The four order bits of a page's state cannot hold 16.
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

TEST(ZoneFreeDeathTest, OfAPageOfNoZone) {
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
    AllocateBulk(*zone, pages);
  }
  EXPECT_DEATH(zone.Free(0, 0), "order 0, which is not allocated there");
}

}  // namespace
}  // namespace guestmm::zone_test
