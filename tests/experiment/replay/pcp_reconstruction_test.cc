#include "src/experiment/replay/pcp_reconstruction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace guestmm::pcp_reconstruction_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr MigrateType kMovable = MigrateType::kMovable;

// A batch of 4, a high mark of 12.
class PcpReconstructionTest : public ::testing::Test {
 protected:
  // These return what they drain, in order.
  std::vector<uint64_t> Free(uint64_t pfn, int order = 0) {
    drained_.clear();
    per_cpu_.Free(Pfn(pfn), Order(order), kMovable, drained_);
    return Drained();
  }
  bool TakeListed(uint64_t pfn) {
    return per_cpu_.TakeListed(Pfn(pfn), Order(0), kMovable);
  }
  std::vector<uint64_t> Refill() {
    drained_.clear();
    placeholders_ = per_cpu_.Refill(Order(0), kMovable, drained_);
    return Drained();
  }
  void Assume(uint64_t pfn) { per_cpu_.Assume(Pfn(pfn), Order(0), kMovable); }
  std::vector<uint64_t> DrainThrough(uint64_t pfn) {
    drained_.clear();
    per_cpu_.DrainThrough(Pfn(pfn), Order(0), drained_);
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

  PcpReconstruction per_cpu_{{.batch = 4, .high = 12}};
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
  EXPECT_THAT(DrainThrough(77), IsEmpty());
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

// free_high of 6.1, for orders 1 to 3.
TEST_F(PcpReconstructionTest, SmallBlocksFreedInARowEmptyTheLists) {
  for (uint64_t pfn = 0; pfn < 12; ++pfn) Free(pfn);
  EXPECT_THAT(Free(16, 1), ElementsAre(16, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_EQ(per_cpu_.pages(), 0u);
}

}  // namespace
}  // namespace guestmm::pcp_reconstruction_test
