#include "guestmm/buddy/memory_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/base/random.h"

namespace guestmm::memory_layout_test {
namespace {

using ::testing::ElementsAre;

constexpr Pfn kDma32Start(0x1000);
constexpr Pfn kNormalStart(0x100000);
constexpr uint64_t kGibPages = kGiB / kPageSize;

// "0 DMA32 [0x1000, 0x2000)" for each part, its node first.
std::vector<std::string> Layout(const std::vector<MemoryRange>& memory,
                                uint64_t movable = 0,
                                Order alignment = kMaxOrder) {
  std::vector<std::string> parts;
  for (const ZoneRange& part :
       LayOutZones(memory, PageCount(movable), alignment)) {
    parts.push_back(absl::StrFormat(
        "%d %s [0x%x, 0x%x)", part.memory.node, std::string(Name(part.type)),
        part.memory.start.value(), part.memory.end.value()));
  }
  return parts;
}

TEST(MemoryLayoutTest, MemoryIsCutAt16MiBAnd4GiB) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x180000)}}),
              ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                          "0 Normal [0x100000, 0x180000)"));
}

TEST(MemoryLayoutTest, MemoryThatEndsAtABorderIsNotCut) {
  EXPECT_THAT(Layout({{Pfn(0), kDma32Start}}),
              ElementsAre("0 DMA [0x0, 0x1000)"));
  EXPECT_THAT(Layout({{kDma32Start, kNormalStart}}),
              ElementsAre("0 DMA32 [0x1000, 0x100000)"));
}

TEST(MemoryLayoutTest, HolesStayHoles) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x9f)},
                      {Pfn(0x100), Pfn(0x7ffdc)},
                      {Pfn(0x100000), Pfn(0x180000)}}),
              ElementsAre("0 DMA [0x0, 0x9f)", "0 DMA [0x100, 0x1000)",
                          "0 DMA32 [0x1000, 0x7ffdc)",
                          "0 Normal [0x100000, 0x180000)"));
}

TEST(MemoryLayoutTest, EachNodeHasPartsOfItsOwn) {
  EXPECT_THAT(
      Layout({{Pfn(0), Pfn(0x80000), 0}, {Pfn(0x80000), Pfn(0x140000), 1}}),
      ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x80000)",
                  "1 DMA32 [0x80000, 0x100000)",
                  "1 Normal [0x100000, 0x140000)"));
}

TEST(MemoryLayoutTest, ZoneTypeOfAndItsEndAgreeAtTheBorders) {
  EXPECT_EQ(ZoneTypeOf(Pfn(0)), ZoneType::kDma);
  EXPECT_EQ(ZoneTypeOf(kDma32Start - PageCount(1)), ZoneType::kDma);
  EXPECT_EQ(ZoneTypeOf(kDma32Start), ZoneType::kDma32);
  EXPECT_EQ(ZoneTypeOf(kNormalStart - PageCount(1)), ZoneType::kDma32);
  EXPECT_EQ(ZoneTypeOf(kNormalStart), ZoneType::kNormal);
  EXPECT_EQ(EndOfZoneType(ZoneType::kDma), kDma32Start);
  EXPECT_EQ(EndOfZoneType(ZoneType::kDma32), kNormalStart);
}

// movablecore=

// 8 GiB, of them 1 GiB movable: the kernel's 7 GiB are the lowest.
TEST(MovableCoreTest, IsTheTopOfOneNode) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x200000)}}, kGibPages),
              ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                          "0 Normal [0x100000, 0x1c0000)",
                          "0 Movable [0x1c0000, 0x200000)"));
}

TEST(MovableCoreTest, OnePageIsRoundedUpToABlockOfTheLargestOrder) {
  EXPECT_THAT(Layout({{kNormalStart, Pfn(0x110000)}}, 1),
              ElementsAre("0 Normal [0x100000, 0x10fc00)",
                          "0 Movable [0x10fc00, 0x110000)"));
}

// 20,000 pages; 1,000 are rounded up to 1,024; the kernel wants 18,976, which
// is 18.5 blocks, and gets 19.
TEST(MovableCoreTest, ItsStartIsRoundedUpSoThatItMayBeLessThanAsked) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(20000)}}, 1000),
              ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x4c00)",
                          "0 Movable [0x4c00, 0x4e20)"));
}

// Where memory ends below 4 GiB, DMA32 is the highest zone; below 16 MiB, DMA.
TEST(MovableCoreTest, IsTakenFromTheHighestZoneThereIs) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x2000)}}, 0x1c00),
              ElementsAre("0 DMA [0x0, 0x1000)", "0 Movable [0x1000, 0x2000)"));
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x1000)}}, 0x400),
              ElementsAre("0 DMA [0x0, 0xc00)", "0 Movable [0xc00, 0x1000)"));
}

// Of 5 GiB, 3 are requested, but only 1 is above 4 GiB.
TEST(MovableCoreTest, CannotBeMoreThanTheHighestZone) {
  EXPECT_THAT(Layout({{Pfn(0), Pfn(0x140000)}}, 3 * kGibPages),
              ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                          "0 Movable [0x100000, 0x140000)"));
}

// If the kernel keeps nothing for itself, the option has no effect.
TEST(MovableCoreTest, OfAllMemoryOrMoreIsNone) {
  for (const uint64_t movable : {5 * kGibPages, 6 * kGibPages}) {
    EXPECT_THAT(Layout({{Pfn(0), Pfn(0x140000)}}, movable),
                ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                            "0 Normal [0x100000, 0x140000)"));
  }
}

// Two nodes of 6 GiB, 4 GiB movable: the kernel wants 4 GiB of each node; on
// node 0 all of that is below 4 GiB.
TEST(MovableCoreTest, TheKernelsShareIsTheSameOnEachNode) {
  EXPECT_THAT(
      Layout({{Pfn(0), Pfn(0x180000), 0}, {Pfn(0x180000), Pfn(0x300000), 1}},
             4 * kGibPages),
      ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                  "0 Movable [0x100000, 0x180000)",
                  "1 Normal [0x180000, 0x280000)",
                  "1 Movable [0x280000, 0x300000)"));
}

// 5 and 11 GiB, 4 GiB movable: the kernel wants 6 of each, but node 0 has 5, so
// that node 1 gives 7.
TEST(MovableCoreTest, ANodeMakesUpForASmallerOne) {
  EXPECT_THAT(
      Layout({{Pfn(0), Pfn(0x140000), 0}, {Pfn(0x140000), Pfn(0x400000), 1}},
             4 * kGibPages),
      ElementsAre("0 DMA [0x0, 0x1000)", "0 DMA32 [0x1000, 0x100000)",
                  "0 Normal [0x100000, 0x140000)",
                  "1 Normal [0x140000, 0x300000)",
                  "1 Movable [0x300000, 0x400000)"));
}

// 8 and 9 pages, 8 of them movable: of the kernel's 9 pages, each node gives 4;
// the remaining one is dropped.
TEST(MovableCoreTest, WhatDoesNotDivideEvenlyIsNotSpread) {
  EXPECT_THAT(
      Layout({{kNormalStart, kNormalStart + PageCount(8), 0},
              {kNormalStart + PageCount(8), kNormalStart + PageCount(17), 1}},
             8, Order(2)),
      ElementsAre(
          "0 Normal [0x100000, 0x100004)", "0 Movable [0x100004, 0x100008)",
          "1 Normal [0x100008, 0x10000c)", "1 Movable [0x10000c, 0x100011)"));
}

TEST(MovableCoreTest, HolesInTheMovablePartStayHoles) {
  EXPECT_THAT(
      Layout({{kNormalStart, kNormalStart + PageCount(16)},
              {kNormalStart + PageCount(32), kNormalStart + PageCount(48)},
              {kNormalStart + PageCount(64), kNormalStart + PageCount(80)}},
             24, Order(2)),
      ElementsAre(
          "0 Normal [0x100000, 0x100010)", "0 Normal [0x100020, 0x100028)",
          "0 Movable [0x100028, 0x100030)", "0 Movable [0x100040, 0x100050)"));
}

// Property: agrees with find_zone_movable_pfns_for_nodes, computed page by page

// The start of ZONE_MOVABLE on each node.
class PageByPage {
 public:
  PageByPage(const std::vector<MemoryRange>& memory, uint64_t movable,
             Order alignment)
      : memory_(memory) {
    uint64_t total = 0;
    for (const MemoryRange& range : memory) {
      total += range.pages().pages().value();
      starts_[range.node] = 0;
    }
    const uint64_t block = alignment.pages().value();
    movable = std::min(total, (movable + block - 1) / block * block);
    wanted_ = total - movable;
    if (movable == 0 || wanted_ == 0) {
      for (auto& [node, start] : starts_) start = ~uint64_t{0};
      return;
    }
    const ZoneType highest = ZoneTypeOf(memory.back().end - PageCount(1));
    usable_ = highest == ZoneType::kDma     ? 0
              : highest == ZoneType::kDma32 ? kDma32Start.value()
                                            : kNormalStart.value();
    for (uint64_t nodes = starts_.size(); nodes > 0;) {
      uint64_t share = wanted_ / nodes;
      for (auto& [node, start] : starts_) {
        if (wanted_ < share) share = wanted_ / nodes;
        GiveToKernel(node, start, share);
      }
      if (--nodes > 0 && wanted_ <= nodes) break;
    }
    for (auto& [node, start] : starts_) {
      start = (start + block - 1) / block * block;
    }
  }

  bool IsMovable(int node, uint64_t page) const {
    return page >= starts_.at(node);
  }

 private:
  void GiveToKernel(int node, uint64_t& start, uint64_t share) {
    for (const MemoryRange& range : memory_) {
      if (range.node != node || range.end.value() <= start) continue;
      for (uint64_t page = std::max(range.start.value(), start);
           page < range.end.value(); ++page) {
        if (page >= usable_ && share == 0) {
          // Above the kernel's pages on this node.
          if (start < range.start.value()) start = page;
          return;
        }
        if (share > 0) --share;
        if (wanted_ > 0) --wanted_;
        start = page + 1;
      }
      if (share == 0 && range.end.value() > usable_) return;
    }
  }

  std::vector<MemoryRange> memory_;
  uint64_t wanted_ = 0;
  uint64_t usable_ = 0;
  std::map<int, uint64_t> starts_;
};

TEST(MovableCoreTest, IsTheKernelsForAnyMemory) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    // Ranges around one of the borders, on up to three nodes.
    const Pfn around = random.OneIn(2) ? kNormalStart : kDma32Start;
    std::vector<MemoryRange> memory;
    uint64_t total = 0;
    Pfn at = around - PageCount(random.Below(200));
    const uint64_t ranges = random.Between(1, 6);
    for (uint64_t i = 0; i < ranges; ++i) {
      const Pfn start = at + PageCount(random.OneIn(2) ? 0 : random.Below(60));
      const Pfn end = start + PageCount(random.Between(1, 120));
      memory.push_back({start, end, static_cast<int>(random.Below(3))});
      total += (end - start).value();
      at = end;
    }
    const uint64_t movable = random.Below(total + total / 8 + 1);
    const Order alignment(static_cast<int>(random.Below(4)));
    const PageByPage expected(memory, movable, alignment);

    const std::vector<ZoneRange> parts =
        LayOutZones(memory, PageCount(movable), alignment);
    size_t part = 0;
    for (const MemoryRange& range : memory) {
      for (Pfn page = range.start; page < range.end; page += PageCount(1)) {
        while (part < parts.size() && parts[part].memory.end <= page) ++part;
        ASSERT_LT(part, parts.size()) << page;
        ASSERT_GE(page, parts[part].memory.start);
        ASSERT_EQ(parts[part].memory.node, range.node) << page;
        ASSERT_EQ(parts[part].type, expected.IsMovable(range.node, page.value())
                                        ? ZoneType::kMovable
                                        : ZoneTypeOf(page))
            << page;
      }
    }
    uint64_t laid_out = 0;
    for (const ZoneRange& zone_range : parts) {
      laid_out += zone_range.memory.pages().pages().value();
    }
    EXPECT_EQ(laid_out, total);
  }
}

}  // namespace
}  // namespace guestmm::memory_layout_test
