// Watermarks, isolating and returning free blocks, and the observer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_isolation_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class FakeObserver final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override {
    last_zone = &zone;
    freed.emplace_back(pfn.value(), order.value());
    return wants_wake;
  }
  void Wake() override { ++wakes; }

  Zone* last_zone = nullptr;
  std::vector<std::pair<uint64_t, int>> freed;
  bool wants_wake = true;
  int wakes = 0;
};

// Watermarks

TEST(ZoneWatermarkTest, AreAsSet) {
  TinyZone zone(16);
  EXPECT_EQ(zone->watermarks().min, PageCount(0));
  zone->SetWatermarks({PageCount(1), PageCount(2), PageCount(3)});
  EXPECT_EQ(zone->watermarks().min, PageCount(1));
  EXPECT_EQ(zone->watermarks().low, PageCount(2));
  EXPECT_EQ(zone->watermarks().high, PageCount(3));
}

TEST(ZoneWatermarkTest, MoreThanTheMarkMustBeFree) {
  TinyZone zone(16);
  EXPECT_TRUE(zone->WatermarkOk(Order(0), PageCount(15)));
  EXPECT_FALSE(zone->WatermarkOk(Order(0), PageCount(16)));
}

// free - (pages - 1) > mark: the block's first page still counts as free.
TEST(ZoneWatermarkTest, ALargerBlockCountsAllButOneOfItsPages) {
  TinyZone zone(16);
  EXPECT_TRUE(zone->WatermarkOk(Order(3), PageCount(8)));
  EXPECT_FALSE(zone->WatermarkOk(Order(3), PageCount(9)));
  EXPECT_TRUE(zone->WatermarkOk(Order(4), PageCount(0)));
  EXPECT_FALSE(zone->WatermarkOk(Order(4), PageCount(1)));
}

TEST(ZoneWatermarkTest, ABlockLargerThanAllThatIsFreeDoesNotFit) {
  TinyZone zone(8);
  EXPECT_FALSE(zone->WatermarkOk(Order(4), PageCount(0)));
  EXPECT_FALSE(zone->WatermarkOk(Order(10), PageCount(0)));
}

TEST(ZoneWatermarkTest, ABlockLargeEnoughMustBeThere) {
  TinyZone zone(16, Order(2));
  EXPECT_TRUE(zone->WatermarkOk(Order(2), PageCount(0)));
  EXPECT_FALSE(zone->WatermarkOk(Order(3), PageCount(0)));
  for (int i = 0; i < 4; ++i) zone.Allocate(1);
  zone.Free(8, 1);
  zone.Free(12, 1);
  EXPECT_EQ(zone.Picture(), "F---F---F-A-F-A-");
  EXPECT_TRUE(zone->WatermarkOk(Order(2), PageCount(0)));
  zone.Allocate(2);
  zone.Allocate(2);
  EXPECT_EQ(zone.Picture(), "A---A---F-A-F-A-");
  EXPECT_FALSE(zone->WatermarkOk(Order(2), PageCount(0)));
  EXPECT_TRUE(zone->WatermarkOk(Order(1), PageCount(0)));
}

TEST(ZoneWatermarkTest, AnEmptyZoneIsBelowZero) {
  TinyZone zone(4);
  zone.Allocate(2);
  EXPECT_FALSE(zone->WatermarkOk(Order(0), PageCount(0)));
}

// Isolating

TEST(ZoneIsolateTest, TakesTheWholeBlockOffItsList) {
  TinyZone zone(16);
  zone.Allocate(2);
  std::optional<IsolatedBlock> block = zone.Isolate(8);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(zone.Picture(), "A---F---I-------");
  EXPECT_THAT(zone.List(3), IsEmpty());
  EXPECT_EQ(zone->free_pages(), PageCount(4));
  EXPECT_EQ(zone->isolated_pages(), PageCount(8));
  EXPECT_TRUE(zone.CheckInvariants().ok());
  EXPECT_EQ(&block->zone(), &*zone);
  EXPECT_EQ(block->pfn(), Pfn(8));
  EXPECT_EQ(block->order(), Order(3));
  EXPECT_EQ(block->range(), (GpaRange{Gpa(8 * kPageSize), 8 * kPageSize}));
  zone.Return(std::move(*block));
}

TEST(ZoneIsolateTest, AnIsolatedBlockCannotBeAllocated) {
  TinyZone zone(8, Order(2));
  std::optional<IsolatedBlock> block = zone.Isolate(4);
  EXPECT_EQ(zone.FreeBlockAt(4), std::nullopt);
  EXPECT_EQ(zone.Allocate(2), Pfn(0));
  EXPECT_EQ(zone.Allocate(0), std::nullopt);
  zone.Return(std::move(*block));
  EXPECT_EQ(zone.Allocate(0), Pfn(4));
}

TEST(ZoneIsolateTest, AFreedBlockDoesNotMergeWithAnIsolatedBuddy) {
  TinyZone zone(32);
  zone.Allocate(3);
  std::optional<IsolatedBlock> block = zone.Isolate(8);
  zone.Free(0, 3);
  EXPECT_EQ(zone.Picture(), "F-------I-------F---------------");
  zone.Return(std::move(*block));
  EXPECT_EQ(zone.Picture(), "F-------------------------------");
}

// A block of 8 of 16: refused with min 8, since 8 would stay free.
TEST(ZoneIsolateTest, IsRefusedIfAtMostMinWouldStayFree) {
  TinyZone zone(16, Order(3));
  zone->SetWatermarks({PageCount(8), PageCount(8), PageCount(8)});
  EXPECT_FALSE(zone.Isolate(0).has_value());
  EXPECT_EQ(zone.Picture(), "F-------F-------");
  EXPECT_THAT(zone.List(3), ElementsAre(8, 0));
  EXPECT_EQ(zone->isolated_pages(), PageCount(0));

  zone->SetWatermarks({PageCount(7), PageCount(8), PageCount(8)});
  std::optional<IsolatedBlock> block = zone.Isolate(0);
  ASSERT_TRUE(block.has_value());
  zone.Return(std::move(*block));
}

// Even without watermarks one page must stay: __isolate_free_page requires more
// than zero free pages.
TEST(ZoneIsolateTest, TheLastFreeBlockIsRefused) {
  TinyZone zone(16, Order(3));
  std::optional<IsolatedBlock> block = zone.Isolate(0);
  ASSERT_TRUE(block.has_value());
  EXPECT_FALSE(zone.Isolate(8).has_value());
  zone.Return(std::move(*block));
}

TEST(ZoneIsolateTest, FreeBlockAtKnowsHeadsOnly) {
  TinyZone zone(PfnRange{Pfn(4), Pfn(16)}, {{Pfn(4), Pfn(12)}});
  EXPECT_EQ(zone.Picture(), "F---F---....");
  EXPECT_EQ(zone.FreeBlockAt(4), Order(2));
  EXPECT_EQ(zone.FreeBlockAt(8), Order(2));
  for (const uint64_t pfn : {0, 3, 5, 7, 12, 16, 1 << 30}) {
    EXPECT_EQ(zone.FreeBlockAt(pfn), std::nullopt) << pfn;
  }
  zone.Allocate(2);
  EXPECT_EQ(zone.FreeBlockAt(8), std::nullopt);
}

TEST(ZoneIsolateDeathTest, OfWhatIsNotAFreeBlock) {
  TinyZone zone(16);
  zone.Allocate(2);
  EXPECT_DEATH(static_cast<void>(zone.Isolate(0)),
               "pfn 0x0 is not a free block of zone Normal");
  EXPECT_DEATH(static_cast<void>(zone.Isolate(9)),
               "pfn 0x9 is not a free block of zone Normal");
}

// Far beyond the page map, which must not be read there.
TEST(ZoneIsolateDeathTest, OfAPageOfAnotherZone) {
  TinyZone zone(16);
  EXPECT_DEATH(static_cast<void>(zone.Isolate(uint64_t{1} << 40)),
               "pfn 0x10000000000 is not a free block of zone Normal");
}

// Returning

TEST(ZoneReturnTest, ReturnsTheMergedOrder) {
  TinyZone zone(16);
  zone.Allocate(2);
  std::optional<IsolatedBlock> block = zone.Isolate(8);
  zone.Free(0, 2);
  EXPECT_EQ(zone.Picture(), "F-------I-------");
  EXPECT_EQ(zone.Return(std::move(*block)), Order(4));
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_EQ(zone->isolated_pages(), PageCount(0));
  EXPECT_EQ(zone->free_pages(), PageCount(16));
}

TEST(ZoneReturnTest, ReturnsItsOrderIfItDidNotMerge) {
  TinyZone zone(16);
  zone.Allocate(3);
  zone.Allocate(2);
  zone.Free(0, 3);
  EXPECT_EQ(zone.Return(std::move(*zone.Isolate(12))), Order(2));
  EXPECT_EQ(zone.Picture(), "F-------A---F---");
}

// Returned as if freed: at the head, or at the tail where the kernel inserts
// it.
TEST(ZoneReturnTest, IsInsertedWhereAFreedBlockIs) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  for (const uint64_t pfn : {5, 0, 2, 3}) zone.Free(pfn, 0);
  EXPECT_EQ(zone.Picture(), "FAF-AFAAF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(0, 5));
  EXPECT_EQ(zone.Return(std::move(*zone.Isolate(0))), Order(0));
  EXPECT_THAT(zone.List(0), ElementsAre(5, 0));
  EXPECT_EQ(zone.Return(std::move(*zone.Isolate(0))), Order(0));
  EXPECT_EQ(zone.Return(std::move(*zone.Isolate(5))), Order(0));
  EXPECT_THAT(zone.List(0), ElementsAre(5, 0));
}

TEST(ZoneReturnDeathTest, ToAnotherZone) {
  TinyZone zone(16, Order(3));
  TinyZone other(16);
  std::optional<IsolatedBlock> block = zone.Isolate(0);
  EXPECT_DEATH(other.Return(std::move(*block)),
               "a block returned to another zone");
  zone.Return(std::move(*block));
}

TEST(IsolatedBlockTest, MayMoveOnItsWay) {
  TinyZone zone(16, Order(3));
  std::optional<IsolatedBlock> block = zone.Isolate(0);
  IsolatedBlock moved(std::move(*block));
  block.reset();  // moved from
  EXPECT_EQ(moved.pfn(), Pfn(0));
  EXPECT_EQ(moved.order(), Order(3));
  zone.Return(std::move(moved));
}

TEST(IsolatedBlockDeathTest, CannotBeForgotten) {
  TinyZone zone(16, Order(3));
  EXPECT_DEATH(
      zone.Isolate(8),
      "isolated block at pfn 0x8, order 3, was not returned to its zone");
}

// The observer

TEST(ZoneObserverTest, IsNotifiedOfTheMergedBlock) {
  TinyZone zone(16);
  zone.AllocatePages(2);
  FakeObserver observer;
  zone->SetObserver(&observer);
  EXPECT_EQ(zone.Free(1, 0), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(1, 0)));
  EXPECT_EQ(zone.Free(0, 0), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(1, 0), Pair(0, 4)));
  EXPECT_EQ(observer.last_zone, &*zone);
  EXPECT_EQ(observer.wakes, 0);  // PageAllocator calls Wake
}

TEST(ZoneObserverTest, IsNotifiedOfBlocksFromItsOrderOn) {
  TinyZone zone(16);
  zone.AllocatePages(8);
  FakeObserver observer;
  zone->SetObserver(&observer, Order(2));
  for (const uint64_t pfn : {0, 1, 2}) EXPECT_EQ(zone.Free(pfn, 0), nullptr);
  EXPECT_THAT(observer.freed, IsEmpty());
  EXPECT_EQ(zone.Free(3, 0), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(0, 2)));
  EXPECT_EQ(zone.Free(4, 0), nullptr);
}

TEST(ZoneObserverTest, DecidesWhetherItIsWoken) {
  TinyZone zone(16);
  zone.AllocatePages(2);
  FakeObserver observer;
  zone->SetObserver(&observer);
  observer.wants_wake = false;
  EXPECT_EQ(zone.Free(1, 0), nullptr);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(1, 0)));
}

TEST(ZoneObserverTest, OneOfABatchIsEnoughForAWake) {
  TinyZone zone(16);
  std::array<Pfn, 4> pages;
  FakeObserver observer;
  zone->SetObserver(&observer, Order(1));
  LockHolder hold(zone->lock());
  zone->AllocateBulk(pages, Order(0), MigrateType::kMovable, Mixing::kAllow);
  // F-CF: the observer is notified of the pair, not of the page after it.
  const std::array<Pfn, 3> freed = {Pfn(3), Pfn(1), Pfn(0)};
  EXPECT_EQ(zone->FreeBulk({{{.blocks = freed, .order = Order(0)}}}),
            &observer);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(0, 1)));
}

TEST(ZoneObserverTest, NullIsNoObserver) {
  TinyZone zone(16);
  zone.AllocatePages(3);
  FakeObserver observer;
  zone->SetObserver(&observer);
  EXPECT_EQ(zone.Free(2, 0), &observer);
  zone->SetObserver(nullptr);
  EXPECT_EQ(zone.Free(1, 0), nullptr);
  EXPECT_EQ(zone.Free(0, 0), nullptr);
  EXPECT_EQ(observer.freed.size(), 1);
}

TEST(ZoneObserverTest, IsNotNotifiedOfReturnedBlocks) {
  TinyZone zone(16);
  zone.Allocate(2);
  FakeObserver observer;
  zone->SetObserver(&observer);
  zone.Return(std::move(*zone.Isolate(8)));
  EXPECT_THAT(observer.freed, IsEmpty());
}

// Onlined memory is notified as if freed.
TEST(ZoneObserverTest, IsNotifiedOfNewMemory) {
  TinyZone zone(PfnRange{Pfn(0), Pfn(32)}, {{Pfn(0), Pfn(8)}});
  FakeObserver observer;
  zone->SetObserver(&observer, Order(2));
  EXPECT_EQ(zone->AddMemory({Pfn(8), Pfn(16)}), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(Pair(0, 4)));
  observer.freed.clear();
  EXPECT_EQ(zone->AddMemory({Pfn(18), Pfn(20)}), nullptr);
  EXPECT_THAT(observer.freed, IsEmpty());
}

// A block freed beside an isolated one is notified without it; the return that
// merges them is not notified.
TEST(ZoneObserverTest, AMergeAtReturnIsNotNotified) {
  TinyZone zone(32);
  zone.Allocate(3);
  FakeObserver observer;
  zone->SetObserver(&observer);
  std::optional<IsolatedBlock> block = zone.Isolate(8);
  EXPECT_EQ(zone.Free(0, 3), &observer);
  EXPECT_EQ(zone.Return(std::move(*block)), Order(5));
  EXPECT_THAT(observer.freed, ElementsAre(Pair(0, 3)));
}

}  // namespace
}  // namespace guestmm::zone_isolation_test
