#include "guestmm/buddy/per_cpu_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr PageCount Mib(uint64_t mib) {
  return PageCount(mib * kMiB / kPageSize);
}

void ExpectLimits(PageCount managed, uint32_t batch, uint32_t high) {
  const PerCpuLimits limits =
      DefaultPerCpuLimits(Linux::k5_3, managed, PageCount(0), 1);
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

// A list of high 0 gives each page to the zone at once.
TEST(PerCpuLimitsTest, OfATinyZoneCacheNothing) {
  ExpectLimits(Mib(32), 1, 6 * 1);
  ExpectLimits(Mib(16), 1, 0);
  ExpectLimits(PageCount(16), 1, 0);
  ExpectLimits(PageCount(0), 1, 0);
}

// A vCPU's single movable pages, all that 5.3 caches here.
class SinglePages : public PerCpuPages {
 public:
  SinglePages(TinyZone& zone, PerCpuLimits limits)
      : PerCpuPages(*zone, zone.pages(), Linux::k5_3, limits) {}
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
  // The fourth reached the mark: 7 first, then 1.
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
  // Two stay; each further page pushes out the one freed two before.
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

TEST(PerCpuPagesTest, TheObserverHearsOfBatchesNotOfCachedPages) {
  class Observer final : public FreeBlockObserver {
   public:
    bool OnBlockFreed(Zone&, Pfn pfn, Order) override {
      freed.push_back(pfn.value());
      return true;
    }
    void Wake() override {}
    std::vector<uint64_t> freed;
  };
  TinyZone zone(16);
  Observer observer;
  zone->SetObserver(&observer);
  SinglePages list(zone, {.batch = 2, .high = 3});
  zone.AllocatePages(8);
  EXPECT_EQ(list.Free(Pfn(1)), nullptr);
  EXPECT_EQ(list.Free(Pfn(3)), nullptr);
  EXPECT_THAT(observer.freed, IsEmpty());
  EXPECT_EQ(list.Free(Pfn(5)), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(1, 3));
  EXPECT_EQ(list.Drain(), &observer);
  EXPECT_THAT(observer.freed, ElementsAre(1, 3, 5));
}

// Linux 6.1

// A zone of 64 pages in pageblocks of 16, and one vCPU's lists by 6.1's rules.
class PerCpuPages61Test : public ::testing::Test {
 protected:
  PerCpuPages61Test() : lists_(MakeLists({.batch = 3, .high = 9})) {}

  std::unique_ptr<PerCpuPages> MakeLists(PerCpuLimits limits) {
    return std::make_unique<PerCpuPages>(*zone_, zone_.pages(), Linux::k6_1,
                                         limits);
  }
  // Frees `count` single pages, ascending from `pfn`.
  void FreePages(uint64_t pfn, int count) {
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(lists_->Free(Pfn(pfn++), Order(0)), nullptr);
    }
  }
  uint64_t cached() const { return lists_->cached_pages().value(); }

  TinyZone zone_{{.span = {Pfn(0), Pfn(64)},
                  .memory = {{Pfn(0), Pfn(64)}},
                  .max_order = Order(5),
                  .pageblock_order = Order(4)}};
  std::unique_ptr<PerCpuPages> lists_;
};

// Nine are high: a batch goes back, which counts as freeing in a row. From then
// on a pair is not kept, and takes along all there is.
TEST_F(PerCpuPages61Test, SmallBlocksFreedInARowDoNotStayEvenBelowHigh) {
  zone_.AllocatePages(16);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  FreePages(0, 9);
  EXPECT_EQ(cached(), 6);
  EXPECT_EQ(lists_->Free(Pfn(16), Order(1)), nullptr);
  EXPECT_EQ(cached(), 0);
}

// An allocation ends the row.
TEST_F(PerCpuPages61Test, SmallBlocksStayAfterAnAllocation) {
  zone_.AllocatePages(16);
  ASSERT_EQ(zone_.Allocate(1), Pfn(16));
  FreePages(0, 9);
  EXPECT_EQ(lists_->Allocate(Order(0), MigrateType::kMovable), Pfn(8));
  EXPECT_EQ(lists_->Free(Pfn(16), Order(1)), nullptr);
  EXPECT_EQ(cached(), 7);
}

// drain_pages_zone: from the list of unmovable single pages on, to that of
// reclaimable pageblocks.
TEST_F(PerCpuPages61Test, DrainsListByListFromTheFirstOn) {
  class Observer final : public FreeBlockObserver {
   public:
    bool OnBlockFreed(Zone&, Pfn pfn, Order) override {
      freed.push_back(pfn.value());
      return false;
    }
    void Wake() override {}
    std::vector<uint64_t> freed;
  };
  lists_ = MakeLists({.batch = 1, .high = 60});
  std::vector<Pfn> blocks;
  for (const auto& [order, type] :
       {std::pair(4, MigrateType::kMovable), std::pair(1, MigrateType::kMovable),
        std::pair(0, MigrateType::kMovable),
        std::pair(0, MigrateType::kUnmovable)}) {
    blocks.push_back(*lists_->Allocate(Order(order), type));
    ASSERT_EQ(lists_->Free(blocks.back(), Order(order)), nullptr);
  }
  Observer observer;
  zone_->SetObserver(&observer);
  EXPECT_EQ(lists_->Drain(), nullptr);
  EXPECT_THAT(observer.freed.size(), 4);
  EXPECT_EQ(observer.freed[0], blocks[3].value());  // unmovable
}

TEST(PerCpuPagesDeathTest, ABatchOfNothing) {
  TinyZone zone(4);
  EXPECT_DEATH(SinglePages(zone, {.batch = 0, .high = 8}), "limits_.batch > 0");
}

TEST(PerCpuPagesDeathTest, DoubleFree) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 1, .high = 8});
  list.Allocate();
  EXPECT_EQ(list.Free(Pfn(0)), nullptr);
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(0))),
               "free of pfn 0x0, order 0, which is cached, order 0");
}

TEST(PerCpuPagesDeathTest, FreeOfALargerBlock) {
  TinyZone zone(4);
  SinglePages list(zone, {.batch = 1, .high = 8});
  zone.Allocate(1);
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(0))),
               "free of pfn 0x0, order 0, which is allocated, order 1");
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(1))),
               "free of pfn 0x1, order 0, which is tail, order 0");
}

// A page behind the map is the front door's to refuse.
TEST(PerCpuPagesDeathTest, FreeOfAPageOfAnotherZone) {
  TinyZone zone({.span = {Pfn(0), Pfn(8)},
                 .memory = {{Pfn(0), Pfn(8)}},
                 .max_order = Order(2)});
  SinglePages list(zone, {.batch = 1, .high = 8});
  EXPECT_EQ(list.Allocate(), Pfn(4));
  zone.pages().SetPageblock(Pfn(4), {.zone = 1});
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(4))),
               "free of pfn 0x4, order 0, which is allocated");
  EXPECT_DEATH(static_cast<void>(list.Free(Pfn(9))),
               "free of pfn 0x9, order 0, which is offline");
}

}  // namespace
}  // namespace guestmm
