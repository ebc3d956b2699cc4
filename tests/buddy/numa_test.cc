// Which node serves a request, how that is counted, and the large guest of the
// recordings as metadata only.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "tests/testing/tiny_allocator.h"

namespace guestmm::numa_test {
namespace {

// Two nodes of 16 Normal pages, a vCPU on each, no watermarks.
std::unique_ptr<PageAllocator> MakeTwoNodes() {
  return MakeAllocator(
      {.memory = {PagesFrom(kNormalStart, 16, 0),
                  PagesFrom(kNormalStart + PageCount(16), 16, 1)},
       .cpus = 2,
       .max_order = Order(3),
       .section_order = Order(3),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
}

// Two nodes with a vCPU each: node 0 has DMA32 and Normal, node 1 Normal only;
// 16 pages per zone, in pageblocks of 8.
std::unique_ptr<PageAllocator> MakeNodesOfWhichOneHasDma32(
    PerCpuLimits limits = kNoCache) {
  return MakeAllocator(
      {.memory = {PagesFrom(kNormalStart - PageCount(16), 32, 0),
                  PagesFrom(kNormalStart + PageCount(16), 16, 1)},
       .cpus = 2,
       .max_order = Order(3),
       .min_free_kbytes = 0,
       .per_cpu_limits = limits});
}

int NodeServing(PageAllocator& allocator, int cpu, Gfp gfp) {
  const std::optional<Pfn> pfn = allocator.Allocate(cpu, Order(0), gfp);
  return pfn ? allocator.ZoneOf(*pfn).node() : -1;
}

TEST(NumaTest, AVcpuIsServedFromItsOwnNode) {
  const auto allocator = MakeTwoNodes();
  EXPECT_EQ(allocator->NodeOf(0), 0);
  EXPECT_EQ(allocator->NodeOf(1), 1);
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser), 0);
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 1);
}

TEST(NumaTest, ThePreferredNodeComesFirst) {
  const auto allocator = MakeTwoNodes();
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser.PreferablyFrom(1)), 1);
}

TEST(NumaTest, TheOtherNodeServesIfItsNodeIsFull) {
  const auto allocator = MakeTwoNodes();
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 1);
  }
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 0);
  }
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), -1);
  ExpectInvariants(*allocator);
}

TEST(NumaTest, ThisNodeOnlyFailsWhereTheNodeIsFull) {
  const auto allocator = MakeTwoNodes();
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser.OnlyFrom(1)), 1);
  }
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser.OnlyFrom(1)), -1);
  EXPECT_EQ(allocator->Counts().free, PageCount(16));
  // Counted at the zone that the request tried first.
  EXPECT_EQ(
      allocator->vmstat(allocator->zone(1, ZoneType::kNormal)).alloc_failed, 1);
}

TEST(NumaTest, ARequestThatNoZoneCanServeIsCountedAsFailed) {
  const auto allocator = MakeTwoNodes();
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpDma), -1);
  EXPECT_EQ(allocator->vmstat().alloc_failed, 1);
  EXPECT_EQ(allocator->vmstat(allocator->zone(1, ZoneType::kDma)).alloc_failed,
            1);
}

// Mixing types is better than a remote node: Normal of node 0 has no unmovable
// pageblock left, but node 0 serves the request.
TEST(NumaTest, ARequestMixesTypesRatherThanGoToAnotherNode) {
  const auto allocator = MakeTwoNodes();
  // Movable memory in use on node 0, with one free page in each pageblock.
  std::vector<Pfn> pages;
  for (int i = 0; i < 16; ++i) {
    pages.push_back(*allocator->Allocate(0, Order(0), kGfpUser));
  }
  for (const Pfn pfn : pages) {
    if (pfn.IsAligned(Order(3))) allocator->Free(0, pfn, Order(0));
  }
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpKernel), 0);
  EXPECT_EQ(allocator->zone(0, ZoneType::kNormal).steals(), 1);
}

// From a node's Normal [unmovable: AAAAAAFF][movable: AAAAF---], a vCPU
// allocates four unmovable pages. If there is DMA32 to fall back to, it gets
// the two free unmovable ones; otherwise the movable pageblock is broken up for
// the other two.
TEST(NumaTest, ANodeWithoutDma32DoesNotAvoidToMixTypes) {
  const auto allocator = MakeNodesOfWhichOneHasDma32({.batch = 4, .high = 8});
  for (const int node : {0, 1}) {
    const Gfp kernel = kGfpKernel.OnlyFrom(node);
    const Gfp user = kGfpUser.OnlyFrom(node);
    const auto whole = allocator->Allocate(node, Order(3), kernel);
    allocator->Free(node, *whole, Order(3));
    EXPECT_TRUE(allocator->Allocate(node, Order(2), kernel));
    EXPECT_TRUE(allocator->Allocate(node, Order(1), kernel));
    EXPECT_TRUE(allocator->Allocate(node, Order(2), user));
    EXPECT_TRUE(allocator->Allocate(node, Order(0), kernel));
    EXPECT_EQ(allocator->ZoneOf(*whole).type(), ZoneType::kNormal);
    EXPECT_EQ(allocator->per_cpu_pages(node, allocator->ZoneOf(*whole))
                  .cached_pages(),
              PageCount(node == 0 ? 1 : 3));
  }
}

// How it is counted

struct NumaCounts {
  uint64_t hit, miss, foreign, local, other;
  bool operator==(const NumaCounts&) const = default;
  friend std::ostream& operator<<(std::ostream& os, const NumaCounts& counts) {
    return os << counts.hit << " hit, " << counts.miss << " miss, "
              << counts.foreign << " foreign, " << counts.local << " local, "
              << counts.other << " other";
  }
};

NumaCounts CountsOf(const VmStat& stat) {
  return {stat.numa_hit, stat.numa_miss, stat.numa_foreign, stat.numa_local,
          stat.numa_other};
}

NumaCounts CountsOfNode(const PageAllocator& allocator, int node) {
  return CountsOf(allocator.vmstat(allocator.zone(node, ZoneType::kNormal)));
}

// Linux 5.3, zone_statistics, a row for each case.
TEST(NumaStatTest, ByHand) {
  const auto allocator = MakeTwoNodes();
  // Served on the vCPU's node.
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser), 0);
  EXPECT_EQ(CountsOfNode(*allocator, 0), (NumaCounts{1, 0, 0, 1, 0}));
  EXPECT_EQ(CountsOfNode(*allocator, 1), (NumaCounts{0, 0, 0, 0, 0}));
  // Requested from another node and served there: a hit there, but not local.
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser.PreferablyFrom(1)), 1);
  EXPECT_EQ(CountsOfNode(*allocator, 0), (NumaCounts{1, 0, 0, 1, 0}));
  EXPECT_EQ(CountsOfNode(*allocator, 1), (NumaCounts{1, 0, 0, 0, 1}));
  // Fills node 1 from its own vCPU: 15 more hits.
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 1);
  }
  EXPECT_EQ(CountsOfNode(*allocator, 1), (NumaCounts{16, 0, 0, 15, 1}));
  // The next request is served remotely: foreign on its node, a miss and other
  // on the remote one.
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 0);
  EXPECT_EQ(CountsOfNode(*allocator, 0), (NumaCounts{1, 1, 0, 1, 1}));
  EXPECT_EQ(CountsOfNode(*allocator, 1), (NumaCounts{16, 0, 1, 15, 1}));
  // Node 0's vCPU prefers node 1, but is served on node 0: a miss, and local.
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser.PreferablyFrom(1)), 0);
  EXPECT_EQ(CountsOfNode(*allocator, 0), (NumaCounts{1, 2, 0, 2, 1}));
  EXPECT_EQ(CountsOfNode(*allocator, 1), (NumaCounts{16, 0, 2, 15, 1}));
  EXPECT_EQ(CountsOf(allocator->vmstat()), (NumaCounts{17, 2, 2, 17, 2}));
}

// The preferred node is that of the first zone in the zonelist: another one if
// the requested node has no memory of the type.
TEST(NumaStatTest, ANodeWithoutSuchMemoryMissesNothing) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(0), 16, 0), PagesFrom(kNormalStart, 16, 1)},
       .cpus = 2,
       .max_order = Order(3),
       .section_order = Order(3),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpDma), 0);
  EXPECT_EQ(CountsOf(allocator->vmstat()), (NumaCounts{1, 0, 0, 0, 1}));
}

TEST(NumaStatTest, PerCpuListsCountEachRequest) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(kNormalStart, 64, 0)},
                     .max_order = Order(3),
                     .section_order = Order(3),
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 8, .high = 16}});
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser), 0);
  EXPECT_EQ(allocator->Counts().cached, PageCount(7));
  EXPECT_EQ(CountsOfNode(*allocator, 0), (NumaCounts{1, 0, 0, 1, 0}));
}

// Node 1 has no DMA32; node 0 is not used in its place (zone_statistics).
TEST(NumaStatTest, WhatOnlyAnotherNodeCanHaveIsNoMiss) {
  const auto allocator = MakeNodesOfWhichOneHasDma32();
  EXPECT_TRUE(allocator->Allocate(0, Order(0), kGfpDma32.PreferablyFrom(1)));
  EXPECT_EQ(allocator->vmstat().numa_hit, 1);
  EXPECT_EQ(allocator->vmstat().numa_miss, 0);
  EXPECT_EQ(allocator->vmstat().numa_foreign, 0);
}

TEST(NumaStatTest, ANodeInPlaceOfAnotherIsAMissThereAndForeignHere) {
  const auto allocator = MakeNodesOfWhichOneHasDma32();
  for (int i = 0; i < 2; ++i) allocator->Allocate(1, Order(3));
  EXPECT_TRUE(allocator->Allocate(1, Order(3)));
  const VmStat node0 = allocator->vmstat(allocator->zone(0, ZoneType::kNormal));
  const VmStat node1 = allocator->vmstat(allocator->zone(1, ZoneType::kNormal));
  EXPECT_EQ(node1.numa_hit, 2);
  EXPECT_EQ(node0.numa_miss, 1);
  EXPECT_EQ(node1.numa_foreign, 1);
  EXPECT_EQ(node0.numa_other, 1);
}

// No zone can serve the request, so it is counted at the zone that it names.
TEST(NumaStatTest, ARequestThatNoZoneCanServeFailsAndIsCounted) {
  const auto allocator = MakeNodesOfWhichOneHasDma32();
  EXPECT_FALSE(allocator->Allocate(0, Order(0), kGfpDma32.OnlyFrom(1)));
  EXPECT_EQ(allocator->vmstat().alloc_failed, 1);
}

TEST(NumaTest, VcpusGoToTheNodesTheyAreGiven) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(kNormalStart, 8, 0),
                                PagesFrom(kNormalStart + PageCount(8), 8, 1)},
                     .cpus = 3,
                     .cpu_nodes = {1, 0, 1},
                     .max_order = Order(3),
                     .section_order = Order(3),
                     .min_free_kbytes = 0,
                     .per_cpu_limits = kNoCache});
  EXPECT_EQ(NodeServing(*allocator, 0, kGfpUser), 1);
  EXPECT_EQ(NodeServing(*allocator, 1, kGfpUser), 0);
  EXPECT_EQ(NodeServing(*allocator, 2, kGfpUser), 1);
}

TEST(NumaDeathTest, AnAbsentNode) {
  const auto allocator = MakeTwoNodes();
  EXPECT_DEATH(static_cast<void>(allocator->Allocate(
                   0, Order(0), kGfpUser.PreferablyFrom(2))),
               "node 2 must be at most 1");
}

// 60 GiB on two nodes, 24 vCPUs: metadata only, most of it not resident before
// memory is used.
TEST(NumaTest, TheBigGuestIsMadeAndUsedAndStaysSmall) {
  constexpr uint64_t kGibPages = kGiB / kPageSize;
  // 3 GiB below the hole under 4 GiB, then 57; 30 on each node.
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(0), 3 * kGibPages, 0),
                  PagesFrom(kNormalStart, 27 * kGibPages, 0),
                  PagesFrom(kNormalStart + PageCount(27 * kGibPages),
                            30 * kGibPages, 1)},
       .cpus = 24});
  EXPECT_EQ(allocator->Counts().managed, PageCount(60 * kGibPages));
  EXPECT_EQ(allocator->NodeOf(11), 0);
  EXPECT_EQ(allocator->NodeOf(12), 1);

  std::vector<std::pair<int, Pfn>> live;
  for (int cpu = 0; cpu < 24; ++cpu) {
    for (int i = 0; i < 100; ++i) {
      const std::optional<Pfn> pfn = allocator->Allocate(
          cpu, Order(0), i % 2 == 0 ? kGfpUser : kGfpKernel);
      ASSERT_TRUE(pfn.has_value());
      EXPECT_EQ(allocator->ZoneOf(*pfn).node(), cpu / 12);
      live.emplace_back(cpu, *pfn);
    }
  }
  for (const auto& [cpu, pfn] : live) allocator->Free(23 - cpu, pfn, Order(0));
  allocator->DrainPerCpuPages();
  EXPECT_EQ(allocator->Counts().free, PageCount(60 * kGibPages));

  constexpr uint64_t kPages = 60 * kGibPages;
  const absl::StatusOr<uint64_t> resident = allocator->pages().ResidentBytes();
  ASSERT_TRUE(resident.ok()) << resident.status();
  // One state per page, and one host page of entries for each largest block.
  EXPECT_LE(*resident, kPages + (kPages >> 10) * 4 * kKiB + 2 * kMiB);
}

}  // namespace
}  // namespace guestmm::numa_test
