#include "guestmm/buddy/page_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/free_block_observer.h"

namespace guestmm::page_allocator_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The end of ZONE_DMA; the end of ZONE_DMA32 and start of ZONE_NORMAL.
constexpr uint64_t kDmaEnd = 16 * kMiB / kPageSize;
constexpr uint64_t kBorder = 4 * kGiB / kPageSize;
constexpr PerCpuLimits kNoCache = {.batch = 1, .high = 0};
constexpr PerCpuLimits kSmallCache = {.batch = 2, .high = 4};

std::unique_ptr<PageAllocator> Make(const PageAllocatorOptions& options) {
  return PageAllocator::Create(options).value();
}

// One zone of `pages` pages, no watermarks.
std::unique_ptr<PageAllocator> MakeTiny(uint64_t pages, int cpus = 1,
                                        PerCpuLimits limits = kSmallCache) {
  return Make({.memory = {{Pfn(0), Pfn(pages)}},
               .cpus = cpus,
               .min_free_kbytes = 0,
               .per_cpu_limits = limits});
}

// 16 pages in each of the two zones.
std::unique_ptr<PageAllocator> MakeTwoZones() {
  return Make({.memory = {{Pfn(kBorder - 16), Pfn(kBorder + 16)}},
               .min_free_kbytes = 0,
               .per_cpu_limits = kNoCache});
}

// Create

void ExpectRefused(const PageAllocatorOptions& options,
                   const std::string& text) {
  const auto allocator = PageAllocator::Create(options);
  EXPECT_EQ(allocator.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(allocator.status().ToString(), HasSubstr(text));
}

TEST(PageAllocatorCreateTest, RefusesNoMemory) {
  ExpectRefused({}, "memory: must not be empty");
}

TEST(PageAllocatorCreateTest, RefusesRangesThatOverlap) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(8)}, {Pfn(7), Pfn(16)}}},
                "memory range of pages [0x7, 0x10): must be non-empty, "
                "ascending and disjoint");
}

TEST(PageAllocatorCreateTest, RefusesRangesThatDescend) {
  ExpectRefused({.memory = {{Pfn(8), Pfn(16)}, {Pfn(0), Pfn(8)}}},
                "memory range of pages [0x0, 0x8)");
}

TEST(PageAllocatorCreateTest, RefusesEmptyAndBackwardRanges) {
  ExpectRefused({.memory = {{Pfn(8), Pfn(8)}}}, "pages [0x8, 0x8)");
  ExpectRefused({.memory = {{Pfn(8), Pfn(4)}}}, "pages [0x8, 0x4)");
}

TEST(PageAllocatorCreateTest, RefusesNoCpus) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(16)}}, .cpus = 0},
                "cpus=0: must be at least 1");
  ExpectRefused({.memory = {{Pfn(0), Pfn(16)}}, .cpus = -3},
                "cpus=-3: must be at least 1");
}

TEST(PageAllocatorCreateTest, RefusesALargestOrderThatIsTooLarge) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(16)}}, .max_order = Order(11)},
                "max_order=11: must be at most 10");
}

TEST(PageAllocatorCreateTest, RefusesABatchOfNothing) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(16)}},
                 .per_cpu_limits = PerCpuLimits{.batch = 0, .high = 8}},
                "per_cpu_limits.batch=0: must be at least 1");
}

TEST(PageAllocatorCreateTest, RefusesPerCpuListsLargerThanAnyGuest) {
  for (const PerCpuLimits limits :
       {PerCpuLimits{.batch = 1, .high = 0xffff'ffff},
        PerCpuLimits{.batch = 0xffff'ffff, .high = 1}}) {
    ExpectRefused({.memory = {{Pfn(0), Pfn(16)}}, .per_cpu_limits = limits},
                  "per_cpu_limits=4294967295 pages: must be at most 1048576");
  }
}

TEST(PageAllocatorCreateTest, RefusesPagesThatLinksCannotName) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(uint64_t{1} << 32)}}},
                "the end of memory or hotplug_end, pfn 0x100000000, must be "
                "0x1 to 0x3ffffc00, for 30-bit page links");
}

// The pages of each zone, DMA first.
std::vector<uint64_t> Managed(const PageAllocator& allocator) {
  std::vector<uint64_t> managed;
  for (const auto& zone : allocator.zones()) {
    managed.push_back(zone->managed_pages().value());
  }
  return managed;
}

// All four zones, with or without memory.
TEST(PageAllocatorCreateTest, MemoryIsInTheZoneOfItsAddress) {
  EXPECT_THAT(Managed(*MakeTiny(16)), ElementsAre(16, 0, 0, 0));
  EXPECT_THAT(Managed(*Make({.memory = {{Pfn(kDmaEnd), Pfn(kDmaEnd + 16)}}})),
              ElementsAre(0, 16, 0, 0));
  const auto normal = Make({.memory = {{Pfn(kBorder), Pfn(kBorder + 16)}}});
  EXPECT_THAT(Managed(*normal), ElementsAre(0, 0, 16, 0));
  for (int type = 0; type < kZoneTypes; ++type) {
    const Zone& zone = *normal->zones()[static_cast<size_t>(type)];
    EXPECT_EQ(zone.type(), static_cast<ZoneType>(type));
    EXPECT_EQ(zone.index(), type);
    EXPECT_EQ(&zone, &normal->zone(0, static_cast<ZoneType>(type)));
  }
}

TEST(PageAllocatorCreateTest, ARangeAcrossTheBorderIsSplit) {
  const auto allocator = MakeTwoZones();
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  const Zone& normal = allocator->zone(0, ZoneType::kNormal);
  EXPECT_THAT(Managed(*allocator), ElementsAre(0, 16, 16, 0));
  EXPECT_EQ(dma32.type(), ZoneType::kDma32);
  EXPECT_EQ(dma32.span(), (PfnRange{Pfn(kBorder - 16), Pfn(kBorder)}));
  EXPECT_EQ(normal.type(), ZoneType::kNormal);
  EXPECT_EQ(normal.span(), (PfnRange{Pfn(kBorder), Pfn(kBorder + 16)}));
}

TEST(PageAllocatorCreateTest, AZoneSpansItsHoles) {
  const auto allocator =
      Make({.memory = {{Pfn(4), Pfn(8)}, {Pfn(24), Pfn(32)}}});
  EXPECT_EQ(allocator->zones()[0]->span(), (PfnRange{Pfn(4), Pfn(32)}));
  EXPECT_EQ(allocator->Counts().managed, PageCount(12));
}

// 8 GiB, 3 of them below 4 GiB, as in a PC.
TEST(PageAllocatorCreateTest, WatermarksAreSharedOutBySize) {
  constexpr uint64_t kGib = kGiB / kPageSize;
  const auto allocator = Make(
      {.memory = {{Pfn(0), Pfn(3 * kGib)}, {Pfn(4 * kGib), Pfn(9 * kGib)}}});
  // min_free_kbytes 11,585 is 2,896 pages; DMA has 16 MiB of 3 GiB.
  EXPECT_EQ(allocator->zones()[0]->watermarks().min, PageCount(5));
  EXPECT_EQ(allocator->zones()[1]->watermarks().min, PageCount(1080));
  EXPECT_EQ(allocator->zones()[2]->watermarks().min, PageCount(1810));
}

// Choice of the zone

TEST(PageAllocatorTest, NormalIsUsedBeforeDma32) {
  const auto allocator = MakeTwoZones();
  EXPECT_EQ(allocator->Allocate(0, Order(4)), Pfn(kBorder));
  EXPECT_EQ(allocator->Allocate(0, Order(3)), Pfn(kBorder - 16));
  EXPECT_EQ(allocator->Allocate(0, Order(4)), std::nullopt);
}

TEST(PageAllocatorTest, ABlockGoesBackToItsOwnZone) {
  const auto allocator = MakeTwoZones();
  allocator->Allocate(0, Order(4));
  const std::optional<Pfn> low = allocator->Allocate(0, Order(0));
  EXPECT_EQ(&allocator->ZoneOf(*low), &allocator->zone(0, ZoneType::kDma32));
  allocator->Free(0, *low, Order(0));
  EXPECT_EQ(allocator->zone(0, ZoneType::kDma32).free_pages(), PageCount(16));
  EXPECT_EQ(allocator->zone(0, ZoneType::kNormal).free_pages(), PageCount(0));
}

// Each zone has 16 pages, min 4, low 8. Served from Normal down to low, DMA32
// down to low, Normal down to min, DMA32 down to min.
TEST(PageAllocatorTest, EveryZonesLowMarkBeforeAnyZonesMin) {
  const auto allocator = MakeTwoZones();
  for (const auto& zone : allocator->zones()) {
    zone->SetWatermarks({PageCount(4), PageCount(8), PageCount(12)});
  }
  std::string zones;
  while (const std::optional<Pfn> pfn = allocator->Allocate(0, Order(0))) {
    zones += allocator->ZoneOf(*pfn).type() == ZoneType::kNormal ? 'N' : 'D';
  }
  EXPECT_EQ(zones, "NNNNNNNNDDDDDDDDNNNNDDDD");
  EXPECT_EQ(allocator->Counts().free, PageCount(8));
}

TEST(PageAllocatorTest, TheMinMarkIsKept) {
  const auto allocator = MakeTiny(16, 1, kNoCache);
  allocator->zones()[0]->SetWatermarks(
      {PageCount(12), PageCount(14), PageCount(16)});
  EXPECT_TRUE(allocator->Allocate(0, Order(1)));  // 16 - 1 > 14
  EXPECT_FALSE(allocator->Allocate(0, Order(2)));
  EXPECT_TRUE(allocator->Allocate(0, Order(1)));  // 14 - 1 > 12
  EXPECT_FALSE(allocator->Allocate(0, Order(0)));
}

// Per-CPU lists

TEST(PageAllocatorTest, SinglePagesGoThroughTheCpusList) {
  const auto allocator = MakeTiny(16, 2);
  EXPECT_EQ(allocator->Allocate(0, Order(0)), Pfn(0));
  EXPECT_EQ(allocator->Counts().cached, PageCount(1));
  EXPECT_EQ(allocator->Allocate(1, Order(0)), Pfn(2));
  EXPECT_EQ(allocator->Counts().cached, PageCount(2));
  allocator->Free(1, Pfn(0), Order(0));
  EXPECT_EQ(allocator->Allocate(1, Order(0)), Pfn(0));
}

TEST(PageAllocatorTest, LargerBlocksDoNot) {
  const auto allocator = MakeTiny(16);
  EXPECT_EQ(allocator->Allocate(0, Order(1)), Pfn(0));
  allocator->Free(0, Pfn(0), Order(1));
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
  EXPECT_EQ(allocator->zones()[0]->free_blocks(Order(4)), 1);
}

// Pages 0 and 1, on the list of CPU 0, keep 16 pages from merging.
TEST(PageAllocatorTest, DrainsAllPerCpuListsBeforeItFails) {
  const auto allocator = MakeTiny(16, 2);
  allocator->Allocate(0, Order(0));
  allocator->Free(0, Pfn(0), Order(0));
  EXPECT_EQ(allocator->Counts().cached, PageCount(2));
  EXPECT_EQ(allocator->Allocate(1, Order(4)), Pfn(0));
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
}

TEST(PageAllocatorTest, FailsWhereDrainingDidNotHelp) {
  const auto allocator = MakeTiny(16);
  allocator->Allocate(0, Order(0));
  EXPECT_EQ(allocator->Allocate(0, Order(4)), std::nullopt);
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
}

TEST(PageAllocatorTest, DrainPerCpuPagesEmptiesEveryList) {
  const auto allocator = MakeTiny(16, 3);
  for (int cpu = 0; cpu < 3; ++cpu) allocator->Allocate(cpu, Order(0));
  EXPECT_EQ(allocator->Counts().cached, PageCount(3));
  allocator->DrainPerCpuPages();
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
  EXPECT_EQ(allocator->Counts().free, PageCount(13));
}

// Counts

TEST(PageAllocatorTest, CountsAddUpOverStates) {
  const auto allocator = MakeTiny(64);
  allocator->Allocate(0, Order(3));
  allocator->Allocate(0, Order(0));
  Zone& zone = *allocator->zones()[0];
  std::optional<IsolatedBlock> block;
  {
    LockHolder hold(zone.lock());
    block.emplace(std::move(*zone.Isolate(Pfn(16))));
  }
  const PageCounts counts = allocator->Counts();
  EXPECT_EQ(counts.managed, PageCount(64));
  EXPECT_EQ(counts.allocated(), PageCount(9));
  EXPECT_EQ(counts.cached, PageCount(1));
  EXPECT_EQ(counts.isolated, PageCount(16));
  EXPECT_EQ(counts.free, PageCount(38));
  LockHolder hold(zone.lock());
  zone.Return(std::move(*block));
}

TEST(PageAllocatorTest, FreePagesAboveLowLeavesOutReservesAndCaches) {
  const auto allocator = MakeTwoZones();
  EXPECT_EQ(allocator->FreePagesAboveLow(), PageCount(32));
  allocator->zones()[1]->SetWatermarks({{}, PageCount(6), {}});
  EXPECT_EQ(allocator->FreePagesAboveLow(), PageCount(26));
  allocator->zones()[2]->SetWatermarks({{}, PageCount(17), {}});
  EXPECT_EQ(allocator->FreePagesAboveLow(), PageCount(10));
}

TEST(PageAllocatorTest, TellsItsOptions) {
  const auto allocator =
      Make({.memory = {{Pfn(0), Pfn(16)}}, .cpus = 3, .max_order = Order(4)});
  EXPECT_EQ(allocator->cpus(), 3);
  EXPECT_EQ(allocator->max_order(), Order(4));
  EXPECT_EQ(allocator->hotplug_end(), Pfn(16));
  EXPECT_EQ(allocator->pages().pageblock_order(), Order(4));
  EXPECT_EQ(allocator->section_order(), kSectionOrder);
}

// Allocates 32 single pages; returns the first letters of their zones' names.
// Normal has min and low 8, DMA32 has min 0 and low 8.
std::string ZonesUsed(Reserves reserves) {
  const auto allocator = MakeTwoZones();
  allocator->zone(0, ZoneType::kNormal)
      .SetWatermarks({PageCount(8), PageCount(8), PageCount(8)});
  allocator->zone(0, ZoneType::kDma32)
      .SetWatermarks({PageCount(0), PageCount(8), PageCount(8)});
  std::string zones;
  while (const std::optional<Pfn> pfn = allocator->Allocate(
             0, Order(0), {.reserves = reserves, .may_reclaim = false})) {
    zones += Name(allocator->ZoneOf(*pfn).type())[0];
  }
  return zones;
}

TEST(PageAllocatorReservesTest, RequestsMayDipBelowMinAsFarAsTheyAreAllowed) {
  EXPECT_EQ(ZonesUsed(Reserves::kNone), "NNNNNNNNDDDDDDDDDDDDDDDD");
  // Down to 4 of 8, and to 3.
  EXPECT_EQ(ZonesUsed(Reserves::kHigh), "NNNNNNNNDDDDDDDDNNNNDDDDDDDD");
  EXPECT_EQ(ZonesUsed(Reserves::kAtomic), "NNNNNNNNDDDDDDDDNNNNNDDDDDDDD");
}

// __GFP_MEMALLOC without __GFP_HIGH: DMA32, still above min, comes first.
TEST(PageAllocatorReservesTest, MemallocTakesTheLastPageButAboveMinFirst) {
  EXPECT_EQ(ZonesUsed(Reserves::kAll), "NNNNNNNNDDDDDDDDDDDDDDDDNNNNNNNN");
}

// The observer

class FakeObserver final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone&, Pfn, Order) override {
    ++freed;
    return true;
  }
  void Wake() override {
    ++wakes;
    if (on_wake) on_wake();
  }

  int freed = 0;
  int wakes = 0;
  std::function<void()> on_wake;
};

TEST(PageAllocatorTest, WakesTheObserverOncePerBatch) {
  const auto allocator = MakeTiny(16);
  FakeObserver observer;
  allocator->SetObserver(&observer);
  for (int i = 0; i < 8; ++i) allocator->Allocate(0, Order(0));
  for (const uint64_t pfn : {0, 2, 4}) allocator->Free(0, Pfn(pfn), Order(0));
  EXPECT_EQ(observer.wakes, 0);
  allocator->Free(0, Pfn(6), Order(0));
  EXPECT_EQ(observer.freed, 2);
  EXPECT_EQ(observer.wakes, 1);
  allocator->DrainPerCpuPages();
  EXPECT_EQ(observer.freed, 4);
  EXPECT_EQ(observer.wakes, 2);
}

TEST(PageAllocatorTest, TheObserverIsNotifiedOfEveryZone) {
  const auto allocator = MakeTwoZones();
  FakeObserver observer;
  allocator->SetObserver(&observer, Order(4));
  for (int i = 0; i < 2; ++i) allocator->Allocate(0, Order(4));
  for (const ZoneType type : {ZoneType::kDma32, ZoneType::kNormal}) {
    allocator->Free(0, allocator->zone(0, type).span().start, Order(4));
  }
  EXPECT_EQ(observer.freed, 2);
  EXPECT_EQ(observer.wakes, 2);
}

// Would deadlock if a lock were held during Wake.
TEST(PageAllocatorTest, WakeMayCallTheAllocator) {
  const auto allocator = MakeTiny(64, 2);
  FakeObserver observer;
  int depth = 0;
  observer.on_wake = [&] {
    if (++depth > 3) return;
    const std::optional<Pfn> page = allocator->Allocate(0, Order(0));
    const std::optional<Pfn> block = allocator->Allocate(0, Order(2));
    allocator->DrainPerCpuPages();
    allocator->Free(0, *page, Order(0));
    allocator->Free(0, *block, Order(2));
    EXPECT_TRUE(allocator->CheckInvariants().ok());
    LockHolder hold(allocator->zones()[0]->lock());
  };
  allocator->SetObserver(&observer);
  const std::optional<Pfn> block = allocator->Allocate(0, Order(1));
  allocator->Free(0, *block, Order(1));  // straight from the zone
  depth = 0;
  std::vector<Pfn> pages;
  for (int i = 0; i < 4; ++i)
    pages.push_back(*allocator->Allocate(1, Order(0)));
  for (const Pfn page : pages) allocator->Free(1, page, Order(0));  // a batch
  depth = 0;
  allocator->DrainPerCpuPages();
  EXPECT_GE(observer.wakes, 3);
  allocator->SetObserver(nullptr);
  allocator->DrainPerCpuPages();
  EXPECT_EQ(allocator->Counts().free, PageCount(64));
}

// Misuse

TEST(PageAllocatorDeathTest, NoSuchCpu) {
  const auto allocator = MakeTiny(16, 2);
  EXPECT_DEATH(allocator->Allocate(2, Order(0)), "cpu 2 must be 0 to 1");
  EXPECT_DEATH(allocator->Allocate(-1, Order(0)), "cpu -1 must be 0 to 1");
  EXPECT_DEATH(allocator->Free(2, Pfn(0), Order(0)), "cpu 2 must be 0 to 1");
}

TEST(PageAllocatorDeathTest, NoSuchOrder) {
  const auto allocator =
      Make({.memory = {{Pfn(0), Pfn(16)}}, .max_order = Order(3)});
  EXPECT_DEATH(allocator->Allocate(0, Order(4)),
               "order 4 must be at most order 3");
}

TEST(PageAllocatorDeathTest, FreeOfAPageOfNoZone) {
  const auto allocator = MakeTwoZones();
  EXPECT_DEATH(allocator->Free(0, Pfn(3), Order(0)), "pfn 0x3 is in no zone");
  EXPECT_DEATH(allocator->Free(0, Pfn(uint64_t{1} << 40), Order(3)),
               "pfn 0x10000000000 is in no zone");
}

TEST(PageAllocatorDeathTest, FreeOfAPageInAHole) {
  const auto allocator =
      Make({.memory = {{Pfn(4), Pfn(8)}, {Pfn(24), Pfn(32)}}});
  EXPECT_DEATH(allocator->Free(0, Pfn(9), Order(0)), "it is offline");
  EXPECT_DEATH(allocator->Free(0, Pfn(16), Order(3)), "not allocated there");
}

TEST(PageAllocatorDeathTest, DoubleFree) {
  const auto allocator = MakeTiny(16);
  allocator->Allocate(0, Order(0));
  allocator->Free(0, Pfn(0), Order(0));
  EXPECT_DEATH(allocator->Free(0, Pfn(0), Order(0)), "it is cached");
  allocator->Allocate(0, Order(2));
  allocator->Free(0, Pfn(4), Order(2));
  EXPECT_DEATH(allocator->Free(0, Pfn(4), Order(2)), "not allocated there");
}

TEST(PageAllocatorDeathTest, FreeAtAnOrderThatNoPageCanHave) {
  const auto allocator = MakeTiny(16);
  allocator->Allocate(0, Order(0));
  EXPECT_DEATH(allocator->Free(0, Pfn(0), Order(16)),
               "order 16 must be at most order 10");
}

// GFP_DMA32: a device that reaches 4 GiB gets no memory above.
TEST(PageAllocatorZoneTest, AllocatesOnlyUpToTheHighestZoneAsked) {
  constexpr Pfn kFourGiB(kBorder);
  const auto allocator =
      PageAllocator::Create(
          {.memory = {{kFourGiB - PageCount(1024), kFourGiB + PageCount(1024)}},
           .min_free_kbytes = 0})
          .value();
  EXPECT_GE(allocator->Allocate(0, Order(9)).value(), kFourGiB);
  EXPECT_LT(allocator->Allocate(0, Order(9), kGfpDma32).value(), kFourGiB);
  EXPECT_LT(allocator->Allocate(0, Order(9), kGfpDma32).value(), kFourGiB);
  // Normal has a block left.
  EXPECT_EQ(allocator->Allocate(0, Order(9), kGfpDma32), std::nullopt);
  EXPECT_GE(allocator->Allocate(0, Order(9)).value(), kFourGiB);
}

}  // namespace
}  // namespace guestmm::page_allocator_test
