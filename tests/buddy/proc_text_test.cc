#include "guestmm/buddy/proc_text.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"

namespace guestmm::proc_text_test {
namespace {

std::unique_ptr<PageAllocator> Make(const PageAllocatorOptions& options) {
  return PageAllocator::Create(options).value();
}

// A zone DMA of all pages below 2048 except the first: one block of each order.
std::unique_ptr<PageAllocator> MakeOneOfEach() {
  return Make({.memory = {{Pfn(1), Pfn(2048)}},
               .cpus = 2,
               .min_free_kbytes = 512,
               .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 54}});
}

// 4 MiB on each of two nodes; node 1's are DMA32.
std::unique_ptr<PageAllocator> MakeTwoNodes() {
  return Make({.memory = {{Pfn(0), Pfn(1024)}, {Pfn(4096), Pfn(5120), 1}},
               .cpus = 2,
               .min_free_kbytes = 0,
               .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 54}});
}

// A zone of 16 pages with pageblocks of 4 and largest blocks of 8, and a node
// without memory.
std::unique_ptr<PageAllocator> MakeTiny() {
  return Make({.memory = {{Pfn(0), Pfn(16)}},
               .distances = {{10, 20}, {20, 10}},
               .max_order = Order(3),
               .pageblock_order = Order(2),
               .min_free_kbytes = 0,
               .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 0}});
}

TEST(ProcTextTest, BuddyInfoHasAColumnForEachOrder) {
  const auto allocator = MakeOneOfEach();
  EXPECT_EQ(BuddyInfo(*allocator),
            "Node 0, zone      DMA      1      1      1      1      1      1"
            "      1      1      1      1      1 \n");
  // A per-CPU list takes pages 1 and 2, which leaves 3 of the block [2, 4).
  EXPECT_EQ(allocator->Allocate(0, Order(0)), Pfn(1));
  EXPECT_EQ(BuddyInfo(*allocator),
            "Node 0, zone      DMA      1      0      1      1      1      1"
            "      1      1      1      1      1 \n");
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

TEST(ProcTextTest, BuddyInfoAndPageTypeInfoLeaveOutEmptyZones) {
  const auto allocator = MakeTiny();
  EXPECT_EQ(BuddyInfo(*allocator),
            "Node 0, zone      DMA      0      0      0      2 \n");
  EXPECT_EQ(
      PageTypeInfo(*allocator),
      "Page block order: 2\n"
      "Pages per block:  4\n"
      "\n"
      "Free pages count per migrate type at order       0      1      2      3 "
      "\n"
      "Node    0, zone      DMA, type    Unmovable      0      0      0      0 "
      "\n"
      "Node    0, zone      DMA, type      Movable      0      0      0      2 "
      "\n"
      "Node    0, zone      DMA, type  Reclaimable      0      0      0      0 "
      "\n"
      "Node    0, zone      DMA, type   HighAtomic      0      0      0      0 "
      "\n"
      "Node    0, zone      DMA, type      Isolate      0      0      0      0 "
      "\n"
      "\n"
      "Number of blocks type     Unmovable      Movable  Reclaimable   "
      "HighAtomic      Isolate \n"
      "Node 0, zone      DMA            0            4            0            "
      "0            0 \n");
}

TEST(ProcTextTest, PageTypeInfoStartsAnewForEachNode) {
  const auto allocator = MakeTwoNodes();
  // The kernel's first page makes both pageblocks of its node unmovable: node 0
  // [U M] -> [U U].
  EXPECT_EQ(allocator->Allocate(0, Order(0), kGfpKernel), Pfn(0));
  Zone& remote = allocator->zone(1, ZoneType::kDma32);
  {
    LockHolder hold(remote.lock());
    remote.IsolatePageblocks({.start = Pfn(4096), .end = Pfn(5120)});
  }
  EXPECT_EQ(PageTypeInfo(*allocator),
            R"(Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    0, zone      DMA, type    Unmovable      0      1      1      1      1      1      1      1      1      1      0 
Node    0, zone      DMA, type      Movable      0      0      0      0      0      0      0      0      0      0      0 
Node    0, zone      DMA, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0 
Node    0, zone      DMA, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0 
Node    0, zone      DMA, type      Isolate      0      0      0      0      0      0      0      0      0      0      0 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate 
Node 0, zone      DMA            2            0            0            0            0 
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    1, zone    DMA32, type    Unmovable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type      Movable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type      Isolate      0      0      0      0      0      0      0      0      0      0      1 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate 
Node 1, zone    DMA32            0            0            0            0            2 
)");
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

TEST(ProcTextTest, ZoneInfoOfAnEmptyZoneIsItsProtection) {
  const auto allocator = MakeOneOfEach();
  ASSERT_EQ(allocator->Allocate(0, Order(0)), Pfn(1));
  EXPECT_EQ(ZoneInfo(*allocator), R"(Node 0, zone      DMA
  pages free     2045
        min      128
        low      160
        high     192
        spanned  2047
        present  2047
        managed  2047
        protection: (0, 0, 0, 0)
      nr_free_pages 2045
      numa_hit     1
      numa_miss    0
      numa_foreign 0
      numa_local   1
      numa_other   0
  pagesets
    cpu: 0
              count: 1
              high:  54
              batch: 2
    cpu: 1
              count: 0
              high:  54
              batch: 2
  start_pfn:           1
Node 0, zone    DMA32
  pages free     0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0)
Node 0, zone   Normal
  pages free     0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0)
Node 0, zone  Movable
  pages free     0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0)
)");
}

// A zone's paragraph of ZoneInfo.
std::string ZoneParagraph(const PageAllocator& allocator,
                          const std::string& first_line) {
  const std::string text = ZoneInfo(allocator);
  const size_t start = text.find(first_line);
  return text.substr(start, text.find("\nNode", start) + 1 - start);
}

TEST(ProcTextTest, ZoneInfoCountsFarRequestsWhereTheyWereServed) {
  const auto allocator = MakeTwoNodes();
  ASSERT_EQ(allocator->NodeOf(1), 1);
  ASSERT_TRUE(allocator->Allocate(1, Order(0), kGfpUser.OnlyFrom(0)));
  EXPECT_EQ(ZoneParagraph(*allocator, "Node 0, zone      DMA\n"),
            R"(Node 0, zone      DMA
  pages free     1022
        min      0
        low      1
        high     2
        spanned  1024
        present  1024
        managed  1024
        protection: (0, 0, 0, 0)
      nr_free_pages 1022
      numa_hit     1
      numa_miss    0
      numa_foreign 0
      numa_local   0
      numa_other   1
  pagesets
    cpu: 0
              count: 0
              high:  54
              batch: 2
    cpu: 1
              count: 1
              high:  54
              batch: 2
  start_pfn:           0
)");
}

TEST(ProcTextTest, ZoneInfoSpansHolesAndProtectsLowerZones) {
  // DMA has 2 of its 3 MiB and reserves a 256th of DMA32's 8 MiB.
  const auto allocator =
      Make({.memory = {{Pfn(256), Pfn(512)},
                       {Pfn(768), Pfn(1024)},
                       {Pfn(4096), Pfn(6144)}},
            .min_free_kbytes = 0,
            .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 0}});
  EXPECT_EQ(ZoneParagraph(*allocator, "Node 0, zone      DMA\n"),
            R"(Node 0, zone      DMA
  pages free     512
        min      0
        low      0
        high     0
        spanned  768
        present  512
        managed  512
        protection: (0, 8, 8, 8)
      nr_free_pages 512
      numa_hit     0
      numa_miss    0
      numa_foreign 0
      numa_local   0
      numa_other   0
  pagesets
    cpu: 0
              count: 0
              high:  0
              batch: 1
  start_pfn:           256
)");
}

// 6.12 prints the high mark as it is tuned now, and not its bounds. Refills of
// 2, 4, 8 and 16 pages have raised it from 8.
TEST(ProcTextTest, ZoneInfoHasTheTunedHighMarkOf6_12) {
  const auto allocator = Make(
      {.memory = {{Pfn(0), Pfn(256)}},
       .min_free_kbytes = 0,
       .per_cpu_lists = KernelVersion::kV6_12,
       .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 8, .high_max = 60}});
  for (int i = 0; i < 15; ++i) allocator->Allocate(/*cpu=*/0, Order(0)).value();
  EXPECT_NE(ZoneInfo(*allocator)
                .find("    cpu: 0\n"
                      "              count: 15\n"
                      "              high:  38\n"
                      "              batch: 2\n"
                      "  start_pfn:"),
            std::string::npos);
}

TEST(ProcTextTest, VmStatHasTheKernelsNamesAndOurs) {
  const auto allocator = MakeTiny();
  const std::optional<Pfn> page = allocator->Allocate(0, Order(0));
  ASSERT_TRUE(allocator->Allocate(0, Order(3)));
  allocator->Free(0, *page, Order(0));
  // Eight pages are free, in one block; then none.
  ASSERT_TRUE(allocator->Allocate(0, Order(3)));
  ASSERT_FALSE(allocator->Allocate(0, Order(0), kGfpAtomic));
  EXPECT_EQ(VmStatText(*allocator), R"(nr_free_pages 0
numa_hit 3
numa_miss 0
numa_foreign 0
numa_local 3
numa_other 0
pgalloc_dma 17
pgalloc_dma32 0
pgalloc_normal 0
pgalloc_movable 0
allocstall_dma 0
allocstall_dma32 0
allocstall_normal 0
allocstall_movable 0
pgfree 1
pgsteal_direct 0
alloc_failed 1
alloc_failed_isolated 0
alloc_failed_isolated_pages 0
alloc_waited_isolated 0
)");
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace guestmm::proc_text_test
