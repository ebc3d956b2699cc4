#include "guestmm/buddy/zonelist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::zonelist_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// "0 DMA": a zone by its node and type.
std::vector<std::string> Names(std::span<Zone* const> zones) {
  std::vector<std::string> names;
  for (const Zone* zone : zones) {
    names.push_back(
        absl::StrCat(zone->node(), " ", std::string(Name(zone->type()))));
  }
  return names;
}

// One node with all four zones; the upper half of Normal's memory is Movable.
std::unique_ptr<PageAllocator> MakeOneNode() {
  return MakeAllocator(
      {.memory = {PagesFrom(Pfn(4080), 32), PagesFrom(kNormalStart, 32)},
       .movable = PageCount(16),
       .max_order = Order(3),
       .section_order = Order(3)});
}

// `nodes` nodes of 8 pages, all Normal.
std::unique_ptr<PageAllocator> MakeNodes(int nodes) {
  std::vector<MemoryRange> memory;
  for (int node = 0; node < nodes; ++node) {
    memory.push_back(PagesFrom(
        kNormalStart + PageCount(8) * static_cast<uint64_t>(node), 8, node));
  }
  return MakeAllocator(
      {.memory = memory, .max_order = Order(3), .section_order = Order(3)});
}

TEST(ZonelistsTest, ANodesZonesFollowFromTheHighestAllowedDown) {
  const auto allocator = MakeOneNode();
  const Zonelists lists(allocator->zones(), {{10}});
  EXPECT_THAT(Names(lists.For(0, ZoneType::kMovable)),
              ElementsAre("0 Movable", "0 Normal", "0 DMA32", "0 DMA"));
  EXPECT_THAT(Names(lists.For(0, ZoneType::kNormal)),
              ElementsAre("0 Normal", "0 DMA32", "0 DMA"));
  EXPECT_THAT(Names(lists.For(0, ZoneType::kDma32)),
              ElementsAre("0 DMA32", "0 DMA"));
  EXPECT_THAT(Names(lists.For(0, ZoneType::kDma)), ElementsAre("0 DMA"));
}

TEST(ZonelistsTest, EmptyZonesAreLeftOut) {
  const auto allocator = MakeNodes(1);
  const Zonelists lists(allocator->zones(), {{10}});
  EXPECT_THAT(Names(lists.For(0, ZoneType::kMovable)), ElementsAre("0 Normal"));
  EXPECT_THAT(Names(lists.For(0, ZoneType::kDma32)), IsEmpty());
  EXPECT_THAT(Names(lists.OnlyFrom(0, ZoneType::kDma32)), IsEmpty());
}

// All of a node's zones come before any of the next node's, even if that is
// higher.
TEST(ZonelistsTest, NodesFollowAsAWhole) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(4080), 32, 0), PagesFrom(kNormalStart, 8, 1)},
       .max_order = Order(3),
       .section_order = Order(3)});
  const Zonelists lists(allocator->zones(), {{10, 20}, {20, 10}});
  EXPECT_THAT(Names(lists.For(0, ZoneType::kMovable)),
              ElementsAre("0 DMA32", "0 DMA", "1 Normal"));
  EXPECT_THAT(Names(lists.For(1, ZoneType::kMovable)),
              ElementsAre("1 Normal", "0 DMA32", "0 DMA"));
}

TEST(ZonelistsTest, NearerNodesComeFirst) {
  const auto allocator = MakeNodes(3);
  // From node 0, node 2 is nearer than 1; distances need not be symmetric.
  const Zonelists lists(allocator->zones(),
                        {{10, 30, 20}, {40, 10, 41}, {20, 21, 10}});
  EXPECT_THAT(Names(lists.For(0, ZoneType::kMovable)),
              ElementsAre("0 Normal", "2 Normal", "1 Normal"));
  EXPECT_THAT(Names(lists.For(1, ZoneType::kMovable)),
              ElementsAre("1 Normal", "0 Normal", "2 Normal"));
  EXPECT_THAT(Names(lists.For(2, ZoneType::kMovable)),
              ElementsAre("2 Normal", "0 Normal", "1 Normal"));
}

TEST(ZonelistsTest, OfEquallyNearNodesTheNextOneComesFirst) {
  const auto allocator = MakeNodes(4);
  NodeDistances distances(4, std::vector<int>(4, 20));
  for (size_t node = 0; node < 4; ++node) distances[node][node] = 10;
  const Zonelists lists(allocator->zones(), distances);
  EXPECT_THAT(Names(lists.For(0, ZoneType::kMovable)),
              ElementsAre("0 Normal", "1 Normal", "2 Normal", "3 Normal"));
  EXPECT_THAT(Names(lists.For(1, ZoneType::kMovable)),
              ElementsAre("1 Normal", "2 Normal", "3 Normal", "0 Normal"));
  EXPECT_THAT(Names(lists.For(3, ZoneType::kMovable)),
              ElementsAre("3 Normal", "0 Normal", "1 Normal", "2 Normal"));
}

TEST(ZonelistsTest, OnlyFromLeavesOtherNodesOut) {
  const auto allocator = MakeNodes(2);
  const Zonelists lists(allocator->zones(), {{10, 20}, {20, 10}});
  EXPECT_THAT(Names(lists.OnlyFrom(1, ZoneType::kMovable)),
              ElementsAre("1 Normal"));
}

TEST(ZonelistsTest, ANodeWithoutMemoryLooksAtOthers) {
  const auto allocator = MakeAllocator({.memory = {PagesFrom(Pfn(0), 8, 0)},
                                        .distances = {{10, 20}, {20, 10}},
                                        .max_order = Order(3),
                                        .section_order = Order(3)});
  const Zonelists lists(allocator->zones(), {{10, 20}, {20, 10}});
  EXPECT_THAT(Names(lists.For(1, ZoneType::kMovable)), ElementsAre("0 DMA"));
  EXPECT_THAT(Names(lists.OnlyFrom(1, ZoneType::kMovable)), IsEmpty());
}

}  // namespace
}  // namespace guestmm::zonelist_test
