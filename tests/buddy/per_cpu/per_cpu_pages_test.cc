// Per-CPU lists by the rules of Linux 5.3.

#include "guestmm/buddy/per_cpu_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "tests/buddy/per_cpu/per_cpu_pages_testing.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::per_cpu_pages_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

void ExpectLimits(PageCount managed, uint32_t batch, uint32_t high) {
  const PerCpuLimits limits =
      DefaultPerCpuLimits(KernelVersion::kV5_3, managed, PageCount(0), 1);
  EXPECT_EQ(limits.batch, batch) << managed;
  EXPECT_EQ(limits.high, high) << managed;
}

TEST(PerCpuLimitsTest, Are63And378From1GiBUpwards) {
  ExpectLimits(Mib(1024), 63, 378);
  ExpectLimits(Mib(4096), 63, 378);
  ExpectLimits(Mib(1024 * 1024), 63, 378);
}

TEST(PerCpuLimitsTest, ShrinkWithTheZone) {
  ExpectLimits(Mib(512), 31, 186);
  ExpectLimits(Mib(256), 15, 90);
  ExpectLimits(Mib(128), 7, 42);
  ExpectLimits(Mib(64), 3, 18);
  ExpectLimits(Mib(48), 3, 18);  // 3 + 1 rounds down to a power of two: 4
}

// A list with high 0 returns each page to the zone at once.
TEST(PerCpuLimitsTest, OfATinyZoneCacheNothing) {
  ExpectLimits(Mib(32), 1, 6 * 1);
  ExpectLimits(Mib(16), 1, 0);
  ExpectLimits(PageCount(16), 1, 0);
  ExpectLimits(PageCount(0), 1, 0);
}

// A vCPU's single movable pages; 5.3 caches no other orders.
class SinglePages : public PerCpuPages {
 public:
  SinglePages(TinyZone& zone, PerCpuLimits limits)
      : PerCpuPages(*zone, zone.pages(), KernelVersion::kV5_3, limits) {}
  std::optional<Pfn> Allocate() {
    return PerCpuPages::Allocate(Order(0), MigrateType::kMovable);
  }
  FreeBlockObserver* Free(Pfn pfn) { return PerCpuPages::Free(pfn, Order(0)); }
};

TEST(PerCpuPagesTest, AnEmptyListTakesABatchAndHandsItOutInOrder) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 3, .high = 6});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(zone.Picture(), "ACCFF---F-------");
  EXPECT_EQ(list.cached_pages(), PageCount(2));
  EXPECT_EQ(list.Allocate(), Pfn(1));
  EXPECT_EQ(list.Allocate(), Pfn(2));
  EXPECT_EQ(zone.Picture(), "AAAFF---F-------");
  EXPECT_EQ(list.Allocate(), Pfn(3));
  EXPECT_EQ(zone.Picture(), "AAAACCF-F-------");
}

TEST(PerCpuPagesTest, ThePageFreedLastIsHandedOutFirst) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 4, .high = 6});
  for (int i = 0; i < 4; ++i) list.Allocate();
  for (const uint64_t pfn : {1, 3, 0}) EXPECT_EQ(list.Free(Pfn(pfn)), nullptr);
  EXPECT_EQ(zone.Picture(), "CCACF---F-------");
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.Allocate(), Pfn(3));
  EXPECT_EQ(list.Allocate(), Pfn(1));
}

TEST(PerCpuPagesTest, AtTheHighMarkTheOldestBatchGoesBack) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 2, .high = 4});
  zone.AllocatePages(8);
  for (const uint64_t pfn : {7, 1, 4}) EXPECT_EQ(list.Free(Pfn(pfn)), nullptr);
  EXPECT_EQ(zone.Picture(), "ACAACAACF-------");
  EXPECT_EQ(list.Free(Pfn(2)), nullptr);
  // The fourth page reaches high: 7 is returned first, then 1.
  EXPECT_EQ(zone.Picture(), "AFCACAAFF-------");
  EXPECT_THAT(zone.List(0), ElementsAre(1, 7));
  EXPECT_EQ(list.cached_pages(), PageCount(2));
  EXPECT_EQ(list.Allocate(), Pfn(2));
  EXPECT_EQ(list.Allocate(), Pfn(4));
}

TEST(PerCpuPagesTest, WithHighZeroEachPageGoesBackAtOnce) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 1, .high = 0});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_EQ(zone.Picture(), "F---");
  EXPECT_EQ(list.cached_pages(), PageCount(0));
}

TEST(PerCpuPagesTest, ABatchLargerThanHigh) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 5, .high = 2});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.cached_pages(), PageCount(4));
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_EQ(zone.Picture(), "F---------------");
  EXPECT_EQ(list.cached_pages(), PageCount(0));
}

TEST(PerCpuPagesTest, TakesWhatTheZoneHasWhereThatIsLessThanABatch) {
  TinyZone zone(3);
  SinglePages list(zone, {.batch = 8, .high = 48});
  EXPECT_EQ(list.Allocate(), Pfn(2));
  EXPECT_EQ(zone.Picture(), "CCA");
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.Allocate(), Pfn(1));
  EXPECT_EQ(list.Allocate(), std::nullopt);
  EXPECT_EQ(zone.Picture(), "AAA");
}

TEST(PerCpuPagesTest, KeepsItsOrderWhenTheRingWrapsAround) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 1, .high = 3});
  zone.AllocatePages(16);
  // Two stay; each further page evicts the one freed two before it.
  for (uint64_t pfn = 0; pfn < 16; ++pfn) {
    EXPECT_EQ(list.Free(Pfn(pfn)), nullptr);
  }
  EXPECT_EQ(zone.Picture(), "F-------F---F-CC");
  EXPECT_EQ(list.Allocate(), Pfn(15));
  EXPECT_EQ(list.Allocate(), Pfn(14));
}

TEST(PerCpuPagesTest, DrainGivesEverythingBackOldestFirst) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 2, .high = 8});
  zone.AllocatePages(8);
  for (const uint64_t pfn : {6, 0, 2, 4, 7}) {
    EXPECT_EQ(list.Free(Pfn(pfn)), nullptr);
  }
  EXPECT_EQ(list.Drain(), nullptr);
  EXPECT_EQ(zone.Picture(), "FAFAFAF-F-------");
  EXPECT_THAT(zone.List(0), ElementsAre(4, 2, 0));
  EXPECT_EQ(list.cached_pages(), PageCount(0));
}

TEST(PerCpuPagesTest, DrainOfAnEmptyListDoesNothing) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 2, .high = 8});
  EXPECT_EQ(list.Drain(), nullptr);
  EXPECT_EQ(zone.Picture(), "F---");
}

TEST(PerCpuPagesTest, AnotherThreadMayDrain) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 4, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  std::thread([&] { EXPECT_EQ(list.Drain(), nullptr); }).join();
  EXPECT_EQ(zone.Picture(), "AFF-F---F-------");
  EXPECT_EQ(list.Allocate(), Pfn(1));
}

TEST(PerCpuPagesTest, APageMayBeFreedOnAnotherCpu) {
  TinyZone zone(16);
  SinglePages cpu0(zone, {.batch = 2, .high = 4});
  SinglePages cpu1(zone, {.batch = 2, .high = 4});
  EXPECT_EQ(cpu0.Allocate(), Pfn(0));
  EXPECT_EQ(cpu1.Free(Pfn(0)), nullptr);
  EXPECT_EQ(cpu0.cached_pages(), PageCount(1));
  EXPECT_EQ(cpu1.cached_pages(), PageCount(1));
  EXPECT_EQ(cpu1.Allocate(), Pfn(0));
}

TEST(PerCpuPagesTest, TheObserverIsNotifiedOfReturnedBatches) {
  TinyZone zone(16);
  FreedBlocks observer(/*wants_wake=*/true);
  zone->SetObserver(&observer);
  SinglePages list(zone, {.batch = 2, .high = 3});
  zone.AllocatePages(8);
  EXPECT_EQ(list.Free(Pfn(1)), nullptr);
  EXPECT_EQ(list.Free(Pfn(3)), nullptr);
  EXPECT_THAT(observer.pfns(), IsEmpty());
  EXPECT_EQ(list.Free(Pfn(5)), &observer);
  EXPECT_THAT(observer.pfns(), ElementsAre(1, 3));
  EXPECT_EQ(list.Drain(), &observer);
  EXPECT_THAT(observer.pfns(), ElementsAre(1, 3, 5));
}

// Returns a page from each of three lists in turn, beginning after unmovable;
// once unmovable is empty, the next list returns one more.
TEST(PerCpuPagesTest, GivesBackRoundTheTypes) {
  TinyZone zone({.span = {Pfn(0), Pfn(32)},
                 .memory = {{Pfn(0), Pfn(32)}},
                 .max_order = Order(3)});
  for (const auto& [pfn, type] : {std::pair(24, MigrateType::kUnmovable),
                                  std::pair(16, MigrateType::kMovable),
                                  std::pair(8, MigrateType::kReclaimable)}) {
    ASSERT_EQ(zone.Allocate(3, type), Pfn(static_cast<uint64_t>(pfn)));
  }
  for (const uint64_t pfn : {24, 16, 8}) zone.Free(pfn, 3);
  for (const MigrateType type : {MigrateType::kUnmovable, MigrateType::kMovable,
                                 MigrateType::kReclaimable}) {
    zone.AllocatePages(8, type);
  }
  EXPECT_EQ(zone.Picture(), "F-------AAAAAAAAAAAAAAAAAAAAAAAA");
  EXPECT_EQ(zone.Types(), "MRMU");
  FreedBlocks observer(/*wants_wake=*/false);
  zone->SetObserver(&observer);
  SinglePages list(zone, {.batch = 4, .high = 7});
  for (const uint64_t pfn : {16, 18, 20, 8, 10, 24}) {
    EXPECT_EQ(list.Free(Pfn(pfn)), nullptr);
  }
  EXPECT_THAT(observer.pfns(), IsEmpty());
  EXPECT_EQ(list.Free(Pfn(22)), nullptr);
  EXPECT_THAT(observer.pfns(), ElementsAre(16, 8, 24, 18));
  EXPECT_EQ(list.Drain(), nullptr);
  EXPECT_THAT(observer.pfns(), ElementsAre(16, 8, 24, 18, 20, 10, 22));
}

TEST(PerCpuPagesTest, EachTypeHasAListOfItsOwn) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(3)});
  SinglePages list(zone, {.batch = 2, .high = 8});
  const Order page(0);
  EXPECT_EQ(list.PerCpuPages::Allocate(page, MigrateType::kUnmovable), Pfn(8));
  EXPECT_EQ(list.PerCpuPages::Allocate(page, MigrateType::kMovable), Pfn(0));
  EXPECT_EQ(zone.Picture(), "ACF-F---ACF-F---");
  EXPECT_EQ(list.PerCpuPages::Allocate(page, MigrateType::kUnmovable), Pfn(9));
  EXPECT_EQ(list.PerCpuPages::Allocate(page, MigrateType::kMovable), Pfn(1));
  // Goes to the list of its pageblock's type, whatever type it was allocated
  // as.
  EXPECT_EQ(list.Free(Pfn(1)), nullptr);
  EXPECT_EQ(list.PerCpuPages::Allocate(page, MigrateType::kMovable), Pfn(1));
}

// Otherwise it would be cached while its pageblock is offlined.
TEST(PerCpuPagesTest, APageOnItsWayOfflineIsNotCached) {
  TinyZone zone({.span = {Pfn(0), Pfn(16)},
                 .memory = {{Pfn(0), Pfn(16)}},
                 .max_order = Order(3)});
  SinglePages list(zone, {.batch = 1, .high = 8});
  ASSERT_EQ(list.Allocate(), Pfn(8));
  {
    LockHolder hold(zone->lock());
    zone->IsolatePageblocks({Pfn(8), Pfn(16)});
  }
  EXPECT_EQ(list.Free(Pfn(8)), nullptr);
  EXPECT_EQ(list.cached_pages(), PageCount(0));
  EXPECT_EQ(zone->offlining_pages(), PageCount(8));
}

TEST(PerCpuPagesTest, NewLimitsBeginWithEmptyLists) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 4, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.SetLimits({.batch = 2, .high = 3}), nullptr);
  EXPECT_EQ(list.cached_pages(), PageCount(0));
  EXPECT_EQ(list.limits(), (PerCpuLimits{.batch = 2, .high = 3}));
  EXPECT_EQ(list.Allocate(), Pfn(1));
  EXPECT_EQ(zone.Picture(), "AACFF---F-------");
}

TEST(PerCpuPagesTest, TheSameLimitsChangeNothing) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 4, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  EXPECT_EQ(list.SetLimits({.batch = 4, .high = 8}), nullptr);
  EXPECT_EQ(list.cached_pages(), PageCount(3));
}

TEST(PerCpuPagesTest, APinnedPageIsNotCachedUntilItIsUnpinned) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 1, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(0));
  ASSERT_TRUE(zone.pages().Pin(Pfn(0)));
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_EQ(list.cached_pages(), PageCount(0));
  EXPECT_EQ(list.Allocate(), Pfn(1));
  EXPECT_EQ(zone.pages().Unpin(Pfn(0)),
            PageMap::Unpinned::kLastPinOfFreedBlock);
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_EQ(list.cached_pages(), PageCount(1));
}

TEST(PerCpuPagesDeathTest, DoubleFreeOfAPinnedPage) {
  TinyZone zone(16);
  SinglePages list(zone, {.batch = 1, .high = 8});
  list.Allocate();
  zone.pages().Pin(Pfn(0));
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(0))), "free of pfn 0x0");
}

TEST(PerCpuPagesDeathTest, ABatchOfNothing) {
  TinyZone zone(4);
  EXPECT_DEATH(SinglePages(zone, {.batch = 0, .high = 8}), "limits.batch > 0");
}

TEST(PerCpuPagesDeathTest, DoubleFree) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 1, .high = 8});
  list.Allocate();
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(0))),
               "free of pfn 0x0, order 0, which is not allocated "
               "there.*cached, order 0");
}

TEST(PerCpuPagesDeathTest, FreeOfALargerBlock) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 1, .high = 8});
  zone.Allocate(1);
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(0))),
               "free of pfn 0x0, order 0, which is not allocated "
               "there.*allocated, order 1");
  EXPECT_DEATH(
      static_cast<void>(list.Free(Pfn(1))),
      "free of pfn 0x1, order 0, which is not allocated there.*tail, order 0");
}

// A page beyond the map is rejected by PageAllocator.
TEST(PerCpuPagesDeathTest, FreeOfAPageOfAnotherZone) {
  TinyZone zone({.span = {Pfn(0), Pfn(8)},
                 .memory = {{Pfn(0), Pfn(8)}},
                 .max_order = Order(2)});
  SinglePages list(zone, {.batch = 1, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(4));
  zone.pages().SetPageblock(Pfn(4), {.zone = 1});
  EXPECT_DEATH(
      static_cast<void>(list.Free(Pfn(4))),
      "free of pfn 0x4, order 0, which is not allocated there.*allocated");
  EXPECT_DEATH(
      static_cast<void>(list.Free(Pfn(9))),
      "free of pfn 0x9, order 0, which is not allocated there.*offline");
}

}  // namespace
}  // namespace guestmm::per_cpu_pages_test
