// How far requests may deplete zones: watermarks, lowmem_reserve, and who may
// use reserves.

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/buddy/watermarks.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::reserves_test {
namespace {

constexpr PageCount kNone;

// 256 pages of DMA with min 16: 64 KiB. low is min + max(16 / 4, 256 / 1000);
// high is as much again.
std::unique_ptr<PageAllocator> MakeMin16(int cpus = 1) {
  return MakeAllocator({.memory = {PagesFrom(Pfn(0), 256)},
                        .cpus = cpus,
                        .max_order = Order(4),
                        .section_order = Order(4),
                        .min_free_kbytes = 64,
                        .per_cpu_limits = kNoCache});
}

TEST(MinFreeKbytesOptionTest, SetsTheMarks) {
  const auto allocator = MakeMin16();
  EXPECT_EQ(allocator->min_free_kbytes(), 64);
  EXPECT_EQ(allocator->zone(0, ZoneType::kDma).watermarks(),
            (Watermarks{PageCount(16), PageCount(20), PageCount(24)}));
}

// Two zones share min by size: 96 and 32 of 128 pages, 8 pages of min.
TEST(MinFreeKbytesOptionTest, IsSharedByTheZones) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(kDma32Start, 96), PagesFrom(kNormalStart, 32)},
       .max_order = Order(4),
       .section_order = Order(4),
       .min_free_kbytes = 32});
  EXPECT_EQ(allocator->zone(0, ZoneType::kDma32).watermarks().min,
            PageCount(6));
  EXPECT_EQ(allocator->zone(0, ZoneType::kNormal).watermarks().min,
            PageCount(2));
}

// Unset: the root of 16 times the KiB below ZONE_MOVABLE; for 64 MiB,
// sqrt(65,536 * 16) = 1,024. Movable memory does not raise it, but takes its
// share: 16 of 80 MiB.
TEST(MinFreeKbytesOptionTest, WithoutItIsTheKernelsFormula) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(kNormalStart, 80 * 256)},
                     .movable = PageCount(16 * 256)});
  EXPECT_EQ(allocator->min_free_kbytes(), 1024);
  // 256 pages, a fifth of them for Movable.
  EXPECT_EQ(allocator->zone(0, ZoneType::kNormal).watermarks().min,
            PageCount(204));
  EXPECT_EQ(allocator->zone(0, ZoneType::kMovable).watermarks().min,
            PageCount(51));
}

// lowmem_reserve

// 8 GiB, the highest of them movable.
TEST(LowmemReserveTest, OfEachZoneByHand) {
  constexpr std::array<PageCount, kZoneTypes> kManaged = {
      PageCount(4096), PageCount(1044480), PageCount(786432),
      PageCount(262144)};
  EXPECT_EQ(ComputeLowmemReserve(ZoneType::kDma, kManaged),
            (LowmemReserve{kNone, PageCount(4080),  // 1,044,480 / 256
                           PageCount(7152),         // + 786,432
                           PageCount(8176)}));      // + 262,144
  EXPECT_EQ(ComputeLowmemReserve(ZoneType::kDma32, kManaged),
            (LowmemReserve{kNone, kNone, PageCount(3072), PageCount(4096)}));
  EXPECT_EQ(ComputeLowmemReserve(ZoneType::kNormal, kManaged),
            (LowmemReserve{kNone, kNone, kNone, PageCount(8192)}));  // / 32
  EXPECT_EQ(ComputeLowmemReserve(ZoneType::kMovable, kManaged),
            LowmemReserve{});
}

// DMA's protection in /proc/zoneinfo: (0, 3056, 3056, 3056). 3 GiB less 16 MiB
// are 782,336 pages.
TEST(LowmemReserveTest, OfAGuestOf3GiB) {
  const auto allocator = MakeAllocator({.memory = {{Pfn(0), Pfn(0xc0000)}}});
  const Zone& dma = allocator->zone(0, ZoneType::kDma);
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kDma), kNone);
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kDma32), PageCount(3056));
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kNormal), PageCount(3056));
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kMovable), PageCount(3056));
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  for (const ZoneType highest : {ZoneType::kDma, ZoneType::kDma32,
                                 ZoneType::kNormal, ZoneType::kMovable}) {
    EXPECT_EQ(dma32.lowmem_reserve(highest), kNone);
  }
}

// Counts the node's zones, not the machine's.
TEST(LowmemReserveTest, IsOfTheNode) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(kDma32Start, 64, 0),
                  PagesFrom(kNormalStart, 2560, 0),
                  PagesFrom(kNormalStart + PageCount(4096), 2560, 1)}});
  EXPECT_EQ(
      allocator->zone(0, ZoneType::kDma32).lowmem_reserve(ZoneType::kNormal),
      PageCount(10));
}

// 64 pages of DMA32, which reserve 2,560 / 256 against requests for Normal.
std::unique_ptr<PageAllocator> MakeReserve10() {
  return MakeAllocator(
      {.memory = {PagesFrom(kDma32Start, 64), PagesFrom(kNormalStart, 2560)},
       .max_order = Order(6),
       .section_order = Order(6),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
}

TEST(LowmemReserveTest, ANormalRequestDoesNotEatDma32BelowIt) {
  const auto allocator = MakeReserve10();
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), kGfpKernel).size(), 2560 + 54);
  EXPECT_EQ(dma32.free_pages(), PageCount(10));
  EXPECT_EQ(allocator->zone(0, ZoneType::kNormal).free_pages(), kNone);
  ExpectInvariants(*allocator);
  // A request that can use no other zone may use them.
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), kGfpDma32).size(), 10);
}

TEST(LowmemReserveTest, DippingGoesToTheMarkNotIntoTheReserve) {
  const auto allocator = MakeReserve10();
  Gfp high = kGfpKernel;
  high.reserves = Reserves::kAtomic;
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), high).size(), 2560 + 54);
}

TEST(LowmemReserveTest, HoldsForBlocksToo) {
  const auto allocator = MakeReserve10();
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  // A block of 8 can be allocated while 18 pages are free: down to 16.
  TakeAll(*allocator, 0, Order(3), kGfpKernel);
  EXPECT_EQ(dma32.free_pages(), PageCount(16));
}

// Only node 1 has Movable; its Normal reserves a 32nd of that. In 5.3 a request
// whose preferred zone is Normal does not count as one that could use Movable.
TEST(LowmemReserveTest, DependsOnThePreferredZonesType) {
  for (const auto& [cpu, taken] : {std::pair{0, 768}, {1, 748}}) {
    const auto allocator = MakeAllocator(
        {.memory = {PagesFrom(kNormalStart, 64, 0),
                    PagesFrom(kNormalStart + PageCount(64), 64, 1)},
         .hotplug_end = kNormalStart + PageCount(768),
         .cpus = 2,
         .max_order = Order(4),
         .section_order = Order(6),
         .min_free_kbytes = 0,
         .per_cpu_limits = kNoCache});
    MemoryHotplug hotplug(*allocator);
    const PfnRange movable = {kNormalStart + PageCount(128),
                              kNormalStart + PageCount(768)};
    ASSERT_EQ(hotplug.Add(movable, 1), absl::OkStatus());
    ASSERT_EQ(hotplug.Online(movable, ZoneType::kMovable), absl::OkStatus());
    EXPECT_EQ(TakeAll(*allocator, cpu, Order(0), kGfpUser).size(), taken);
    ExpectInvariants(*allocator);
  }
}

// Reserves

PageCount LeftBy(Reserves reserves, Order order = Order(0)) {
  const auto allocator = MakeMin16();
  Gfp gfp = kGfpKernel;
  gfp.reserves = reserves;
  TakeAll(*allocator, 0, order, gfp);
  ExpectInvariants(*allocator);
  return allocator->Counts().free;
}

TEST(ReservesTest, NoneStopsAtMin) {
  EXPECT_EQ(LeftBy(Reserves::kNone), PageCount(16));
}
TEST(ReservesTest, HighStopsAtAHalf) {
  EXPECT_EQ(LeftBy(Reserves::kHigh), PageCount(8));
}
// 16 - 8, and a quarter less of the rest.
TEST(ReservesTest, AtomicStopsAtThreeEighths) {
  EXPECT_EQ(LeftBy(Reserves::kAtomic), PageCount(6));
}
TEST(ReservesTest, AllStopsAtNothing) {
  EXPECT_EQ(LeftBy(Reserves::kAll), kNone);
  EXPECT_EQ(LeftBy(Reserves::kAll, Order(2)), kNone);
}

// A block of 8 leaves more than the mark: allocated at 24 + 1 free pages.
TEST(ReservesTest, ABlockCountsAsAWhole) {
  EXPECT_EQ(LeftBy(Reserves::kNone, Order(3)), PageCount(16));
  EXPECT_EQ(LeftBy(Reserves::kHigh, Order(3)), PageCount(8));
  EXPECT_EQ(LeftBy(Reserves::kAtomic, Order(3)), PageCount(8));
}

TEST(ReservesTest, GfpAtomicMayDip) {
  const auto allocator = MakeMin16();
  TakeAll(*allocator, 0, Order(0), kGfpKernel);
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), kGfpAtomic).size(), 10);
  // The request cannot wait.
  EXPECT_EQ(allocator->vmstat().allocstall[0], 1);
}

// A zone is used between low and min only after all zones were tried above low.
TEST(ReservesTest, AZoneBelowLowIsPassedOver) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(kDma32Start, 128), PagesFrom(kNormalStart, 128)},
       .max_order = Order(3),
       .section_order = Order(3),
       .min_free_kbytes = 64,  // min 8, low 10 in each
       .per_cpu_limits = kNoCache});
  const Zone& normal = allocator->zone(0, ZoneType::kNormal);
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  for (int i = 0; i < 118; ++i) {
    ASSERT_TRUE(allocator->Allocate(0, Order(0), kGfpKernel));
  }
  EXPECT_EQ(normal.free_pages(), PageCount(10));
  EXPECT_EQ(dma32.free_pages(), PageCount(128));
  for (int i = 0; i < 118; ++i) {
    ASSERT_TRUE(allocator->Allocate(0, Order(0), kGfpKernel));
  }
  EXPECT_EQ(normal.free_pages(), PageCount(10));
  EXPECT_EQ(dma32.free_pages(), PageCount(10));
  // Now down to min, first from Normal.
  EXPECT_TRUE(allocator->Allocate(0, Order(0), kGfpKernel));
  EXPECT_EQ(normal.free_pages(), PageCount(9));
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), kGfpKernel).size(), 3);
  EXPECT_EQ(normal.free_pages(), PageCount(8));
  EXPECT_EQ(dma32.free_pages(), PageCount(8));
}

// ALLOC_NOFRAGMENT

// Normal has one free page in each of its movable pageblocks, of 8 pages; all
// of DMA32 is free.
std::unique_ptr<PageAllocator> MakeFragmentedNormal() {
  auto allocator = MakeAllocator(
      {.memory = {PagesFrom(kDma32Start, 16), PagesFrom(kNormalStart, 32)},
       .max_order = Order(3),
       .section_order = Order(3),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
  std::vector<Pfn> pages;
  for (int i = 0; i < 32; ++i) {
    pages.push_back(*allocator->Allocate(0, Order(0), kGfpUser));
  }
  for (const Pfn pfn : pages) {
    EXPECT_GE(pfn, kNormalStart);
    if (pfn.IsAligned(Order(3))) allocator->Free(0, pfn, Order(0));
  }
  return allocator;
}

TEST(NoFragmentTest, ANormalRequestPrefersDma32OverMixing) {
  const auto allocator = MakeFragmentedNormal();
  const Zone& normal = allocator->zone(0, ZoneType::kNormal);
  const Zone& dma32 = allocator->zone(0, ZoneType::kDma32);
  // Takes a whole pageblock of DMA32, then the other one.
  for (int i = 0; i < 16; ++i) {
    const auto pfn = allocator->Allocate(0, Order(0), kGfpKernel);
    ASSERT_TRUE(pfn.has_value());
    EXPECT_LT(*pfn, kNormalStart);
  }
  EXPECT_EQ(dma32.stolen_pageblocks(), 2);
  EXPECT_EQ(normal.steals(), 0);
  EXPECT_EQ(normal.free_pages(), PageCount(4));
  // Mixes types before it fails.
  EXPECT_EQ(TakeAll(*allocator, 0, Order(0), kGfpKernel).size(), 4);
  EXPECT_EQ(normal.steals(), 4);
  ExpectInvariants(*allocator);
}

TEST(NoFragmentTest, BlocksGoToDma32Too) {
  const auto allocator = MakeFragmentedNormal();
  const auto pfn = allocator->Allocate(0, Order(1), kGfpKernel);
  ASSERT_TRUE(pfn.has_value());
  EXPECT_LT(*pfn, kNormalStart);
}

// Only if the preferred zone is Normal.
TEST(NoFragmentTest, ADma32RequestMixes) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(0), 16), PagesFrom(kDma32Start, 16)},
       .max_order = Order(3),
       .section_order = Order(3),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
  std::vector<Pfn> pages;
  for (int i = 0; i < 16; ++i) {
    pages.push_back(*allocator->Allocate(0, Order(0), kGfpUser));
  }
  for (const Pfn pfn : pages) {
    if (pfn.IsAligned(Order(3))) allocator->Free(0, pfn, Order(0));
  }
  const auto pfn = allocator->Allocate(0, Order(0), kGfpDma32);
  ASSERT_TRUE(pfn.has_value());
  EXPECT_GE(*pfn, kDma32Start);
  EXPECT_EQ(allocator->zone(0, ZoneType::kDma32).steals(), 1);
}

}  // namespace
}  // namespace guestmm::reserves_test
