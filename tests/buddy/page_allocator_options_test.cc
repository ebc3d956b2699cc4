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
  ExpectRefused(options, "max_order=11: must be at most 10");
}

TEST(PageAllocatorOptionsTest, PageblockOrderAboveMaxOrder) {
  PageAllocatorOptions options = Valid();
  options.max_order = Order(4);
  options.pageblock_order = Order(5);
  ExpectRefused(options, "pageblock_order=5: must be at most max_order, 4");
}

TEST(PageAllocatorOptionsTest, SectionOrderOutOfBounds) {
  PageAllocatorOptions options = Valid();
  options.section_order = Order(9);
  ExpectRefused(options, "section_order=9: must be max_order, 10, to 24");
  options.section_order = Order(25);
  ExpectRefused(options, "section_order=25: must be max_order, 10, to 24");
}

TEST(PageAllocatorOptionsTest, NoMemory) {
  ExpectRefused({}, "memory: must not be empty");
}

TEST(PageAllocatorOptionsTest, RangesThatAreEmptyOrOverlapOrDescend) {
  constexpr const char* kText = ": must be non-empty, ascending and disjoint";
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
                "pages [0x0, 0x8): node -1 must be 0 to 59");
  ExpectRefused({.memory = {{Pfn(0), Pfn(8), 60}}},
                "pages [0x0, 0x8): node 60 must be 0 to 59");
}

TEST(PageAllocatorOptionsTest, TwoNodesInOnePageblock) {
  ExpectRefused(
      {.memory = {{Pfn(0), Pfn(700), 0}, {Pfn(800), Pfn(2048), 1}}},
      "pages [0x320, 0x800): must not share a pageblock of 512 pages with node "
      "0");
  // Ranges of one node may share a pageblock.
  EXPECT_TRUE(
      Resolve({.memory = {{Pfn(0), Pfn(700), 0}, {Pfn(800), Pfn(2048), 0}}})
          .ok());
}

TEST(PageAllocatorOptionsTest, HotplugEndBelowMemory) {
  PageAllocatorOptions options = Valid();
  options.hotplug_end = Pfn(1023);
  ExpectRefused(options,
                "hotplug_end=pfn 0x3ff: must be at least the end of memory, "
                "0x400");
}

TEST(PageAllocatorOptionsTest, MemoryBeyondTheLinks) {
  // 4 TiB are 2^30 pages. Subtracts the list heads of a node's four zones, 55
  // each, and rounds down to a multiple of 1,024 pages.
  PageAllocatorOptions options = Valid();
  options.hotplug_end = Pfn(uint64_t{1} << 30);
  ExpectRefused(options,
                "the end of memory or hotplug_end, pfn 0x40000000, must be 0x1 "
                "to 0x3ffffc00, for 30-bit page links");
}

TEST(PageAllocatorOptionsTest, DistancesThatAreNotASquare) {
  PageAllocatorOptions options = Valid();
  options.distances = {{10, 20}, {20}};
  ExpectRefused(options,
                "distances: the row of node 1 must have 2 entries, not 1");
}

TEST(PageAllocatorOptionsTest, DistancesForFewerNodesThanThereAre) {
  ExpectRefused(
      {.memory = {{Pfn(0), Pfn(8), 2}}, .distances = {{10, 20}, {20, 10}}},
      "distances: must have a row for node 2, which has memory");
}

// The zones of the 61st node would overflow a pageblock's zone index.
TEST(PageAllocatorOptionsTest, DistancesForTooManyNodes) {
  PageAllocatorOptions options = Valid();
  options.distances.assign(61, std::vector<int>(61, 20));
  ExpectRefused(options, "distances: must be of at most 60 nodes, not 61");
}

TEST(PageAllocatorOptionsTest, NoCpus) {
  PageAllocatorOptions options = Valid();
  options.cpus = 0;
  ExpectRefused(options, "cpus=0: must be at least 1");
}

TEST(PageAllocatorOptionsTest, CpuNodesForADifferentNumberOfCpus) {
  PageAllocatorOptions options = Valid();
  options.cpus = 2;
  options.cpu_nodes = {0};
  ExpectRefused(options,
                "cpu_nodes: must have an entry for each of 2 cpus, not 1");
}

TEST(PageAllocatorOptionsTest, ACpuOnAnAbsentNode) {
  PageAllocatorOptions options = Valid();
  options.cpu_nodes = {1};
  ExpectRefused(options, "cpu_nodes: node 1 of cpu 0 must be 0 to 0");
  options.cpu_nodes = {-1};
  ExpectRefused(options, "cpu_nodes: node -1 of cpu 0 must be 0 to 0");
}

TEST(PageAllocatorOptionsTest, MinFreeKbytesOf1TiB) {
  PageAllocatorOptions options = Valid();
  options.min_free_kbytes = (uint64_t{1} << 30) + 1;
  ExpectRefused(options,
                "min_free_kbytes=1073741825: must be at most 1073741824");
}

TEST(PageAllocatorOptionsTest, PerCpuLimitsOutOfBounds) {
  PageAllocatorOptions options = Valid();
  options.per_cpu_limits = PerCpuLimits{.batch = 0, .high = 1};
  ExpectRefused(options, "per_cpu_limits.batch=0: must be at least 1");
  options.per_cpu_limits = PerCpuLimits{.batch = 1, .high = 1 << 21};
  ExpectRefused(options,
                "per_cpu_limits=2097152 pages: must be at most 1048576");
  options.per_cpu_limits = PerCpuLimits{.batch = 1 << 21, .high = 1};
  ExpectRefused(options, "per_cpu_limits=2097152 pages");
  options.per_cpu_limits =
      PerCpuLimits{.batch = 1, .high = 1, .high_max = 1 << 21};
  ExpectRefused(options, "per_cpu_limits=2097152 pages");
}

// What is filled in

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
