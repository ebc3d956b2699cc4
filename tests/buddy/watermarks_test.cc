#include "guestmm/buddy/watermarks.h"

#include <gtest/gtest.h>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::watermarks_test {
namespace {

constexpr PageCount Mib(uint64_t mib) {
  return PageCount(mib * kMiB / kPageSize);
}
constexpr PageCount Gib(uint64_t gib) { return Mib(gib * 1024); }

// The table in the comment above init_per_zone_wmark_min, mm/page_alloc.c
// (which rounds the line of 8 GiB to 11,584).
TEST(MinFreeKbytesTest, IsTheKernelsTable) {
  struct Row {
    uint64_t mib;
    uint64_t kbytes;
  };
  constexpr Row kTable[] = {{16, 512},     {32, 724},     {64, 1024},
                            {128, 1448},   {256, 2048},   {512, 2896},
                            {1024, 4096},  {2048, 5792},  {4096, 8192},
                            {8192, 11585}, {16384, 16384}};
  for (const Row& row : kTable) {
    EXPECT_EQ(DefaultMinFreeKbytes(Mib(row.mib)), row.kbytes) << row.mib;
  }
}

TEST(MinFreeKbytesTest, IsAtLeast128) {
  EXPECT_EQ(DefaultMinFreeKbytes(PageCount(0)), 128);
  EXPECT_EQ(DefaultMinFreeKbytes(Mib(1)), 128);
  EXPECT_EQ(DefaultMinFreeKbytes(PageCount(256)), 128);  // sqrt(16384) = 128
  EXPECT_EQ(DefaultMinFreeKbytes(PageCount(261)), 129);
}

TEST(MinFreeKbytesTest, IsAtMost65536) {
  EXPECT_EQ(DefaultMinFreeKbytes(Gib(256) - PageCount(1)), 65535);
  EXPECT_EQ(DefaultMinFreeKbytes(Gib(256)), 65536);
  EXPECT_EQ(DefaultMinFreeKbytes(Gib(16 * 1024)), 65536);
}

void ExpectWatermarks(const Watermarks& marks, uint64_t min, uint64_t low,
                      uint64_t high) {
  EXPECT_EQ(marks.min, PageCount(min));
  EXPECT_EQ(marks.low, PageCount(low));
  EXPECT_EQ(marks.high, PageCount(high));
}

// min_free_kbytes 4,096 is 1,024 pages; a quarter of them is 256, 0.1 % of the
// zone 262.
// Eleven pageblocks a zone: 2 x 5,632 pages of DMA and DMA32, then Normal too
// (a guest of 6.12 of which zoneinfo shows 11,263 and 16,894, as each zone's
// share is rounded down).
TEST(MinFreeKbytesTest, IsRaisedForHugePages) {
  EXPECT_EQ(HugePageMinFreeKbytes(2, PageCount(230539)), 4 * 11264u);
  EXPECT_EQ(HugePageMinFreeKbytes(3, PageCount(492683)), 4 * 16896u);
  EXPECT_EQ(HugePageMinFreeKbytes(2, PageCount(100000)), 4 * 5000u);
}

TEST(MinFreeKbytesTest, ANewValueSetsWatermarksAndPerCpuLimitsAnew) {
  const auto allocator =
      PageAllocator::Create({.memory = {{Pfn(0x1000), Pfn(0x41000)}},
                             .min_free_kbytes = 4 * 1000,
                             .per_cpu_lists = KernelVersion::kV6_1})
          .value();
  const Zone& zone = allocator->zone(0, ZoneType::kDma32);
  EXPECT_EQ(zone.watermarks().low, PageCount(1262));
  EXPECT_EQ(allocator->per_cpu_pages(0, zone).limits().high, 1262u);
  allocator->SetMinFreeKbytes(4 * 8000);
  EXPECT_EQ(allocator->min_free_kbytes(), 4 * 8000u);
  EXPECT_EQ(zone.watermarks().min, PageCount(8000));
  EXPECT_EQ(zone.watermarks().low, PageCount(10000));
  EXPECT_EQ(allocator->per_cpu_pages(0, zone).limits().high, 10000u);
}

TEST(WatermarksTest, OneZoneOf1GiB) {
  ExpectWatermarks(ComputeWatermarks(4096, Gib(1), Gib(1)), 1024, 1286, 1548);
}

TEST(WatermarksTest, OneZoneOf4GiB) {
  ExpectWatermarks(ComputeWatermarks(8192, Gib(4), Gib(4)), 2048, 3096, 4144);
}

// The zone has three quarters of the machine, and so three quarters of min.
TEST(WatermarksTest, AZoneGetsItsShareOfMin) {
  ExpectWatermarks(ComputeWatermarks(16384, Gib(12), Gib(16)), 3072, 6217,
                   9362);
  ExpectWatermarks(ComputeWatermarks(16384, Gib(4), Gib(16)), 1024, 2072, 3120);
}

TEST(WatermarksTest, AQuarterOfMinIsTheStepWhereMinIsLarge) {
  ExpectWatermarks(ComputeWatermarks(65536, Gib(1), Gib(1)), 16384, 20480,
                   24576);
}

TEST(WatermarksTest, ZeroMinStillKeepsAThousandth) {
  ExpectWatermarks(ComputeWatermarks(0, Gib(1), Gib(1)), 0, 262, 524);
}

TEST(WatermarksTest, ATinyZoneHasNone) {
  ExpectWatermarks(ComputeWatermarks(0, PageCount(16), PageCount(16)), 0, 0, 0);
}

TEST(WatermarksTest, KbytesRoundDownToPages) {
  ExpectWatermarks(ComputeWatermarks(7, PageCount(64), PageCount(64)), 1, 1, 1);
}

}  // namespace
}  // namespace guestmm::watermarks_test
