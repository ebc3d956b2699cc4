// What PageAllocator::Create refuses, each text once, and what it fills in.

#include "src/buddy/page_allocator_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "guestmm/buddy/page_allocator.h"

namespace guestmm::page_allocator_options_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 1,024 pages; to be spoilt.
PageAllocatorOptions Valid() { return {.memory = {{Pfn(0), Pfn(1024)}}}; }

void ExpectRefused(const PageAllocatorOptions& options,
                   const std::string& text) {
  const auto allocator = PageAllocator::Create(options);
  EXPECT_EQ(allocator.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(allocator.status().message()), HasSubstr(text));
}

TEST(PageAllocatorOptionsTest, MaxOrderAboveTheKernels) {
  PageAllocatorOptions options = Valid();
  options.max_order = Order(11);
  ExpectRefused(options, "max_order is 11; at most 10 is allowed");
}

TEST(PageAllocatorOptionsTest, PageblockOrderAboveMaxOrder) {
  PageAllocatorOptions options = Valid();
  options.max_order = Order(4);
  options.pageblock_order = Order(5);
  ExpectRefused(options,
                "pageblock_order is 5; at most max_order, 4, is allowed");
}

TEST(PageAllocatorOptionsTest, SectionOrderOutOfBounds) {
  PageAllocatorOptions options = Valid();
  options.section_order = Order(9);
  ExpectRefused(options, "section_order is 9; max_order, 10, to 24 is allowed");
  options.section_order = Order(25);
  ExpectRefused(options,
                "section_order is 25; max_order, 10, to 24 is allowed");
}

TEST(PageAllocatorOptionsTest, NoMemory) {
  ExpectRefused({}, "the allocator was given no memory");
}

TEST(PageAllocatorOptionsTest, RangesThatAreEmptyOrOverlapOrDescend) {
  constexpr const char* kText =
      ": ranges must be non-empty, ascending and disjoint";
  ExpectRefused({.memory = {{Pfn(8), Pfn(8)}}},
                std::string("memory range of pages [0x8, 0x8)") + kText);
  ExpectRefused({.memory = {{Pfn(8), Pfn(4)}}},
                std::string("memory range of pages [0x8, 0x4)") + kText);
  ExpectRefused({.memory = {{Pfn(0), Pfn(8)}, {Pfn(7), Pfn(16)}}},
                std::string("memory range of pages [0x7, 0x10)") + kText);
  ExpectRefused({.memory = {{Pfn(8), Pfn(16)}, {Pfn(0), Pfn(8)}}},
                std::string("memory range of pages [0x0, 0x8)") + kText);
}

TEST(PageAllocatorOptionsTest, NodesOutOfBounds) {
  ExpectRefused({.memory = {{Pfn(0), Pfn(8), -1}}},
                "pages [0x0, 0x8): node -1; 0 to 59 is allowed");
  ExpectRefused({.memory = {{Pfn(0), Pfn(8), 60}}},
                "pages [0x0, 0x8): node 60; 0 to 59 is allowed");
}

TEST(PageAllocatorOptionsTest, TwoNodesInOnePageblock) {
  ExpectRefused(
      {.memory = {{Pfn(0), Pfn(700), 0}, {Pfn(800), Pfn(2048), 1}}},
      "pages [0x320, 0x800): shares a block of 512 pages with node 0");
  // The same node may.
  EXPECT_TRUE(
      Resolve({.memory = {{Pfn(0), Pfn(700), 0}, {Pfn(800), Pfn(2048), 0}}})
          .ok());
}

TEST(PageAllocatorOptionsTest, HotplugEndBelowMemory) {
  PageAllocatorOptions options = Valid();
  options.hotplug_end = Pfn(1023);
  ExpectRefused(options, "hotplug_end is pfn 0x3ff; memory ends at 0x400");
}

TEST(PageAllocatorOptionsTest, MemoryBeyondWhatLinksReach) {
  // 4 TiB are 2^30 pages, less the list heads of a node's four zones, 55 each:
  // down to a multiple of 1,024 pages.
  PageAllocatorOptions options = Valid();
  options.hotplug_end = Pfn(uint64_t{1} << 30);
  ExpectRefused(options,
                "memory or hotplug_end ends at pfn 0x40000000; 30-bit page "
                "links allow 0x1 to 0x3ffffc00");
}

TEST(PageAllocatorOptionsTest, DistancesThatAreNotASquare) {
  PageAllocatorOptions options = Valid();
  options.distances = {{10, 20}, {20}};
  ExpectRefused(options,
                "distances has a row of 1 for 2 nodes, that of node 1");
}

TEST(PageAllocatorOptionsTest, DistancesForFewerNodesThanThereAre) {
  ExpectRefused(
      {.memory = {{Pfn(0), Pfn(8), 2}}, .distances = {{10, 20}, {20, 10}}},
      "memory of node 2, but distances for 2 nodes");
}

// A pageblock's zone index would not hold the zones of the last one.
TEST(PageAllocatorOptionsTest, DistancesForTooManyNodes) {
  PageAllocatorOptions options = Valid();
  options.distances.assign(61, std::vector<int>(61, 20));
  ExpectRefused(options, "distances for 61 nodes; at most 60 is allowed");
}

TEST(PageAllocatorOptionsTest, NoCpus) {
  PageAllocatorOptions options = Valid();
  options.cpus = 0;
  ExpectRefused(options, "cpus is 0; at least 1 is needed");
}

TEST(PageAllocatorOptionsTest, CpuNodesForOtherThanTheCpus) {
  PageAllocatorOptions options = Valid();
  options.cpus = 2;
  options.cpu_nodes = {0};
  ExpectRefused(options, "cpu_nodes has 1 entries for 2 cpus");
}

TEST(PageAllocatorOptionsTest, ACpuOnANodeThatIsNotThere) {
  PageAllocatorOptions options = Valid();
  options.cpu_nodes = {1};
  ExpectRefused(options, "cpu 0 is on node 1; there are 1 nodes");
  options.cpu_nodes = {-1};
  ExpectRefused(options, "cpu 0 is on node -1; there are 1 nodes");
}

TEST(PageAllocatorOptionsTest, MinFreeKbytesOf1TiB) {
  PageAllocatorOptions options = Valid();
  options.min_free_kbytes = (uint64_t{1} << 30) + 1;
  ExpectRefused(options,
                "min_free_kbytes is 1073741825; at most 1073741824 is allowed");
}

TEST(PageAllocatorOptionsTest, PerCpuLimitsOutOfBounds) {
  PageAllocatorOptions options = Valid();
  options.per_cpu_limits = PerCpuLimits{.batch = 0, .high = 1};
  ExpectRefused(options, "per_cpu_limits.batch is 0; at least 1 is needed");
  options.per_cpu_limits = PerCpuLimits{.batch = 1, .high = 1 << 21};
  ExpectRefused(options,
                "per_cpu_limits has a limit of 2097152 pages; at most 1048576 "
                "is allowed");
  options.per_cpu_limits = PerCpuLimits{.batch = 1 << 21, .high = 1};
  ExpectRefused(options, "per_cpu_limits has a limit of 2097152 pages");
}

// What is filled in
// -------------------------------------------------------------

TEST(PageAllocatorOptionsTest, PageblocksAreOf2MiBOrTheLargestBlocks) {
  EXPECT_EQ(Resolve(Valid())->pageblock_order, Order(9));
  PageAllocatorOptions options = Valid();
  options.max_order = Order(4);
  EXPECT_EQ(Resolve(options)->pageblock_order, Order(4));
}

TEST(PageAllocatorOptionsTest, HotplugEndsWhereMemoryDoes) {
  EXPECT_EQ(Resolve(Valid())->hotplug_end, Pfn(1024));
}

TEST(PageAllocatorOptionsTest, NodesAre10And20Apart) {
  const auto options =
      Resolve({.memory = {{Pfn(0), Pfn(512), 0}, {Pfn(512), Pfn(1024), 2}}});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(options->distances,
              ElementsAre(ElementsAre(10, 20, 20), ElementsAre(20, 10, 20),
                          ElementsAre(20, 20, 10)));
}

TEST(PageAllocatorOptionsTest, TheFirstCpusAreOnTheFirstNode) {
  PageAllocatorOptions options = {
      .memory = {{Pfn(0), Pfn(512), 0}, {Pfn(512), Pfn(1024), 1}}, .cpus = 4};
  EXPECT_THAT(Resolve(options)->cpu_nodes, ElementsAre(0, 0, 1, 1));
  options.cpus = 5;
  EXPECT_THAT(Resolve(options)->cpu_nodes, ElementsAre(0, 0, 0, 1, 1));
}

}  // namespace
}  // namespace guestmm::page_allocator_options_test
