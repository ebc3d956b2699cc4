#include "src/experiment/replay/pcp_reconstruction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace guestmm::pcp_reconstruction_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr MigrateType kMovable = MigrateType::kMovable;

// A batch of 4, a high mark of 12.
class PcpReconstructionTest : public ::testing::Test {
 protected:
  explicit PcpReconstructionTest(KernelVersion kernel = KernelVersion::kV6_1,
                                 PerCpuLimits limits = {.batch = 4,
                                                        .high = 12,
                                                        .high_max = 0})
      : per_cpu_(kernel, limits, blocks_) {}

  // These return what they drain, in order.
  std::vector<uint64_t> Free(uint64_t pfn, int order = 0) {
    drained_.clear();
    per_cpu_.Free(Pfn(pfn), Order(order), kMovable, pressure_, drained_);
    return Drained();
  }
  bool TakeListed(uint64_t pfn) {
    return per_cpu_.TakeListed(Pfn(pfn), Order(0), kMovable);
  }
  std::vector<uint64_t> Refill() {
    drained_.clear();
    placeholders_ = per_cpu_.Refill(Order(0), kMovable, pressure_, drained_);
    return Drained();
  }
  void Assume(uint64_t pfn) { per_cpu_.Assume(Pfn(pfn), Order(0), kMovable); }
  std::vector<uint64_t> DrainThrough(uint64_t pfn) {
    drained_.clear();
    per_cpu_.DrainThrough(blocks_.Find(Pfn(pfn)), drained_);
    return Drained();
  }
  // The drained blocks that were assumed wrongly.
  std::vector<uint64_t> NeverLeftZone() const {
    std::vector<uint64_t> pfns;
    for (const PcpReconstruction::Block& block : drained_) {
      if (block.never_left_zone) pfns.push_back(block.pfn.value());
    }
    return pfns;
  }
  std::vector<uint64_t> Drained() const {
    std::vector<uint64_t> pfns;
    for (const PcpReconstruction::Block& block : drained_) {
      pfns.push_back(block.pfn.value());
    }
    return pfns;
  }

  ListedBlocks blocks_{Pfn(4096)};
  PcpReconstruction per_cpu_;
  ZonePressure pressure_ = ZonePressure::kNone;
  PcpReconstruction::Blocks drained_;
  uint64_t placeholders_ = 0;  // that the last refill left
};

TEST_F(PcpReconstructionTest, CachesWhatLinuxCaches) {
  for (const int order : {0, 1, 2, 3, 9}) {
    EXPECT_TRUE(PcpReconstruction::Caches(Order(order))) << order;
  }
  for (const int order : {4, 8, 10}) {
    EXPECT_FALSE(PcpReconstruction::Caches(Order(order))) << order;
  }
}

TEST_F(PcpReconstructionTest, ListsFreedBlocksUpToTheHighMark) {
  for (uint64_t pfn = 0; pfn < 11; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 11u);
  EXPECT_THAT(Free(11), ElementsAre(0, 1, 2, 3)) << "a batch, oldest first";
  // Twice as many the next time, as nothing was allocated.
  for (uint64_t pfn = 12; pfn < 15; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(15), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
}

TEST_F(PcpReconstructionTest, AListedBlockIsTakenOnce) {
  Free(1);
  Free(2);
  EXPECT_TRUE(TakeListed(1)) << "not only the newest";
  EXPECT_FALSE(TakeListed(1));
  EXPECT_FALSE(TakeListed(3));
  EXPECT_EQ(per_cpu_.pages(), 1u);
}

// A page from the zone shows a refill. The others of its batch are listed, and
// are drained before everything freed later.
TEST_F(PcpReconstructionTest, ARefillLeavesPlaceholders) {
  EXPECT_THAT(Refill(), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_THAT(Refill(), IsEmpty()) << "it was a placeholder";
  EXPECT_EQ(per_cpu_.pages(), 2u);
  for (uint64_t pfn = 0; pfn < 9; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(9), ElementsAre(0, 1)) << "and the two";
}

// A page from the zone shows that the list was empty, so that listed blocks had
// been drained before.
TEST_F(PcpReconstructionTest, ARefillShowsThatTheListWasEmpty) {
  Free(1);
  Free(2);
  EXPECT_THAT(Refill(), ElementsAre(1, 2));
  EXPECT_EQ(per_cpu_.pages(), 3u);
}

TEST_F(PcpReconstructionTest, SeededPagesAreDrainedFirst) {
  per_cpu_.Seed(3);
  per_cpu_.TakeSeeded(Order(0));
  EXPECT_EQ(per_cpu_.pages(), 2u);
  for (uint64_t pfn = 0; pfn < 9; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(9), ElementsAre(0, 1)) << "and the two";
  per_cpu_.TakeSeeded(Order(0));
  EXPECT_EQ(per_cpu_.pages(), 8u) << "no seeded page is left";
}

TEST_F(PcpReconstructionTest, ABlockSeenElsewhereWasDrainedWithAllOlderOnes) {
  for (uint64_t pfn = 0; pfn < 6; ++pfn) Free(pfn);
  EXPECT_THAT(DrainThrough(2), ElementsAre(0, 1, 2));
  EXPECT_THAT(NeverLeftZone(), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_FALSE(TakeListed(2));
}

TEST_F(PcpReconstructionTest, ABlockIsRemovedFromWhereverItIsListed) {
  PcpReconstruction others(KernelVersion::kV6_1, {.batch = 4, .high = 12},
                           blocks_);
  Free(1);
  Free(16, 2);
  const ListedBlocks::Index block = blocks_.Find(Pfn(16));
  EXPECT_TRUE(per_cpu_.Lists(block));
  EXPECT_FALSE(others.Lists(block));
  per_cpu_.Remove(block);
  EXPECT_FALSE(blocks_.Has(Pfn(16)));
  EXPECT_EQ(per_cpu_.pages(), 1u);
}

TEST_F(PcpReconstructionTest, WhatAnAssumedBlockWasReportedAsIsDrainedWithIt) {
  Refill();
  per_cpu_.Assume(Pfn(101), Order(0), kMovable, Order(9));
  DrainThrough(101);
  ASSERT_THAT(drained_, SizeIs(1));
  EXPECT_EQ(drained_[0].reported, Order(9));
}

// They are older than whatever is freed after the refill.
TEST_F(PcpReconstructionTest, AssumedBlocksTakeThePlaceholdersOfTheirRefill) {
  Refill();
  EXPECT_EQ(placeholders_, 3u);
  Assume(101);
  Assume(102);
  EXPECT_EQ(per_cpu_.pages(), 3u) << "in place of placeholders";
  for (uint64_t pfn = 0; pfn < 8; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_TRUE(TakeListed(101));
  EXPECT_THAT(Free(8), IsEmpty());
  // The placeholder, the assumed block, and then freed ones.
  EXPECT_THAT(Free(9), ElementsAre(102, 0, 1));
  EXPECT_THAT(NeverLeftZone(), IsEmpty()) << "it was listed, as assumed";
}

// Assumed blocks would have been handed out before a page from the zone.
TEST_F(PcpReconstructionTest, ARefillShowsThatAssumedBlocksNeverLeftTheZone) {
  Refill();
  Assume(101);
  Assume(102);
  Free(1);
  EXPECT_THAT(Refill(), ElementsAre(102, 101));
  EXPECT_THAT(NeverLeftZone(), ElementsAre(102, 101));
  EXPECT_EQ(placeholders_, 0u) << "no refill: it was a placeholder";
  EXPECT_EQ(per_cpu_.pages(), 3u) << "two placeholders and the freed block";
  EXPECT_TRUE(TakeListed(1));
}

TEST_F(PcpReconstructionTest, AnAssumedBlockSeenElsewhereLeavesAPlaceholder) {
  Refill();
  Assume(101);
  Assume(102);
  EXPECT_THAT(DrainThrough(101), ElementsAre(101));
  EXPECT_THAT(NeverLeftZone(), ElementsAre(101));
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_TRUE(TakeListed(102));
}

TEST_F(PcpReconstructionTest, IdentifiedBlocksAreTheOldestOfTheirList) {
  per_cpu_.Seed(3);
  Free(1);
  per_cpu_.Identify(Pfn(50), Order(0), kMovable);
  per_cpu_.Identify(Pfn(51), Order(0), kMovable);
  EXPECT_EQ(per_cpu_.pages(), 4u) << "two of the seeded pages";
  EXPECT_TRUE(TakeListed(50));
  for (uint64_t pfn = 2; pfn < 10; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(10), ElementsAre(51, 1, 2)) << "and the seeded page";
}

// free_high of 6.1, for orders 1 to 3.
TEST_F(PcpReconstructionTest, SmallBlocksFreedInARowEmptyTheLists) {
  for (uint64_t pfn = 0; pfn < 12; ++pfn) Free(pfn);
  EXPECT_THAT(Free(16, 1), ElementsAre(16, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_EQ(per_cpu_.pages(), 0u);
}

// 6.12: a batch of 4, a high mark from 12 to 40.
class PcpReconstruction612Test : public PcpReconstructionTest {
 protected:
  PcpReconstruction612Test()
      : PcpReconstructionTest(KernelVersion::kV6_12,
                              {.batch = 4, .high = 12, .high_max = 40}) {}

  std::vector<uint64_t> Decay() {
    drained_.clear();
    per_cpu_.Decay(drained_);
    return Drained();
  }
  // The blocks of the next refill, which are all allocated.
  uint64_t RefillSize() {
    Refill();
    const uint64_t left = placeholders_;
    for (uint64_t i = 0; i < left; ++i) {
      Refill();
      EXPECT_EQ(placeholders_, 0u);
    }
    EXPECT_EQ(per_cpu_.pages(), 0u);
    return left + 1;
  }
};

TEST_F(PcpReconstruction612Test, DrainsWhatWasFreedLatelyAndRaisesItsMark) {
  for (uint64_t pfn = 0; pfn < 11; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  // All but a batch of the mark; which rises from 12 to 12 + 4.
  EXPECT_THAT(Free(11), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  for (uint64_t pfn = 12; pfn < 23; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(23), SizeIs(12));
  EXPECT_EQ(per_cpu_.pages(), 4u);
}

// Twice as many each time, while the mark rises; at most all of the mark but a
// batch.
TEST_F(PcpReconstruction612Test, RefillsDouble) {
  for (const uint64_t blocks : {4, 8, 16, 32, 36, 36}) {
    EXPECT_EQ(RefillSize(), blocks);
  }
}

// The mark stays, so that a refill is at most 12 - 4.
TEST_F(PcpReconstruction612Test, AShortZoneGivesOutLittle) {
  pressure_ = ZonePressure::kBelowHigh;
  for (const uint64_t blocks : {4, 8, 8}) EXPECT_EQ(RefillSize(), blocks);
}

// The mark falls by the 21 pages that were freed lately, and what is listed is
// more than it may be.
TEST_F(PcpReconstruction612Test, AShortZoneGetsPagesBackWithAnyFree) {
  per_cpu_.set_high(40);
  for (uint64_t pfn = 0; pfn < 20; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  pressure_ = ZonePressure::kBelowHigh;
  EXPECT_THAT(Free(20), SizeIs(17));
  EXPECT_EQ(per_cpu_.pages(), 4u);
}

// Whole blocks leave, in batches of pages: 6 pages are two batches of 4, and
// each takes a block of 512.
TEST_F(PcpReconstruction612Test, DecayTakesABlockWithEachBatch) {
  per_cpu_.SetLimits({.batch = 4, .high = 1530, .high_max = 4000});
  per_cpu_.set_high(1540);
  for (const uint64_t pfn : {0, 512, 1024}) {
    EXPECT_THAT(Free(pfn, 9), IsEmpty());
  }
  EXPECT_THAT(Decay(), ElementsAre(0, 512));
}

// By an eighth each time: 40, 35, 31, 28, 25.
TEST_F(PcpReconstruction612Test, DecayLowersTheMark) {
  per_cpu_.set_high(40);
  for (uint64_t pfn = 0; pfn < 30; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Decay(), IsEmpty());
  EXPECT_THAT(Decay(), IsEmpty());
  EXPECT_THAT(Decay(), ElementsAre(0, 1));
  EXPECT_THAT(Decay(), ElementsAre(2, 3, 4));
}

}  // namespace
}  // namespace guestmm::pcp_reconstruction_test
