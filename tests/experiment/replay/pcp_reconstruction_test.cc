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
  // What goes back to the zone for a free.
  std::vector<uint64_t> Free(uint64_t pfn, int order = 0) {
    back_.clear();
    per_cpu_.Free(Pfn(pfn), Order(order), kMovable, back_);
    return Back();
  }
  bool Take(uint64_t pfn) {
    return per_cpu_.Take(Pfn(pfn), Order(0), kMovable);
  }
  std::vector<uint64_t> TakeUnlisted() {
    back_.clear();
    others_ = per_cpu_.TakeUnlisted(Order(0), kMovable, back_);
    return Back();
  }
  void AssumeCached(uint64_t pfn) {
    per_cpu_.AssumeCached(Pfn(pfn), Order(0), kMovable);
  }
  std::vector<uint64_t> EvictThrough(uint64_t pfn) {
    back_.clear();
    per_cpu_.EvictThrough(Pfn(pfn), Order(0), back_);
    return Back();
  }
  // Of what goes back to the zone, what had been there all the time.
  std::vector<uint64_t> NeverLeft() const {
    std::vector<uint64_t> pfns;
    for (const PcpReconstruction::Block& block : back_) {
      if (block.never_left) pfns.push_back(block.pfn.value());
    }
    return pfns;
  }
  std::vector<uint64_t> Back() const {
    std::vector<uint64_t> pfns;
    for (const PcpReconstruction::Block& block : back_) {
      pfns.push_back(block.pfn.value());
    }
    return pfns;
  }

  PcpReconstruction per_cpu_{{.batch = 4, .high = 12}};
  PcpReconstruction::Blocks back_;
  uint64_t others_ = 0;  // that a refill brought
};

TEST_F(PcpReconstructionTest, CachesWhatLinuxCaches) {
  for (const int order : {0, 1, 2, 3, 9}) {
    EXPECT_TRUE(PcpReconstruction::Caches(Order(order))) << order;
  }
  for (const int order : {4, 8, 10}) {
    EXPECT_FALSE(PcpReconstruction::Caches(Order(order))) << order;
  }
}

TEST_F(PcpReconstructionTest, HoldsWhatIsFreedUntilTheHighMark) {
  for (uint64_t pfn = 0; pfn < 11; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 11u);
  EXPECT_THAT(Free(11), ElementsAre(0, 1, 2, 3)) << "a batch, oldest first";
  // Twice as many the next time, as nothing was allocated.
  for (uint64_t pfn = 12; pfn < 15; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(15), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
}

TEST_F(PcpReconstructionTest, GivesBackWhatIsTakenAgain) {
  Free(1);
  Free(2);
  EXPECT_TRUE(Take(1)) << "wherever it is in the list";
  EXPECT_FALSE(Take(1));
  EXPECT_FALSE(Take(3));
  EXPECT_EQ(per_cpu_.pages(), 1u);
}

// A page that comes from the zone shows a refill: of the batch the others are
// there, and are the first to go.
TEST_F(PcpReconstructionTest, ARefillLeavesPlacesThatAreUnknown) {
  EXPECT_THAT(TakeUnlisted(), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_THAT(TakeUnlisted(), IsEmpty()) << "one of the three";
  EXPECT_EQ(per_cpu_.pages(), 2u);
  for (uint64_t pfn = 0; pfn < 9; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(9), ElementsAre(0, 1)) << "and the two";
}

// What comes from the zone while something is listed shows that the list was
// empty, so what is listed went back before.
TEST_F(PcpReconstructionTest, ARefillShowsThatTheListWasEmpty) {
  Free(1);
  Free(2);
  EXPECT_THAT(TakeUnlisted(), ElementsAre(1, 2));
  EXPECT_EQ(per_cpu_.pages(), 3u);
}

TEST_F(PcpReconstructionTest, WhatWasThereAtFirstIsUnknown) {
  per_cpu_.AddUnknown(3);
  per_cpu_.TakeUnknown(Order(0));
  EXPECT_EQ(per_cpu_.pages(), 2u);
  for (uint64_t pfn = 0; pfn < 9; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_THAT(Free(9), ElementsAre(0, 1)) << "and the two";
  per_cpu_.TakeUnknown(Order(0));
  EXPECT_EQ(per_cpu_.pages(), 8u) << "there are no more of them";
}

// What another vCPU gets was back in the zone, and what was freed before it
// too.
TEST_F(PcpReconstructionTest, WhatAnotherGetsHadGoneBackWithAllThatIsOlder) {
  for (uint64_t pfn = 0; pfn < 6; ++pfn) Free(pfn);
  EXPECT_THAT(EvictThrough(2), ElementsAre(0, 1, 2));
  EXPECT_THAT(NeverLeft(), IsEmpty());
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_FALSE(Take(2));
  EXPECT_THAT(EvictThrough(77), IsEmpty());
}

// What came with a refill is supposed to be handed out in turn, behind what is
// freed meanwhile.
TEST_F(PcpReconstructionTest, WhatCameWithARefillIsAssumed) {
  TakeUnlisted();
  EXPECT_EQ(others_, 3u);
  AssumeCached(101);
  AssumeCached(102);
  EXPECT_EQ(per_cpu_.pages(), 3u) << "in the places that were kept";
  for (uint64_t pfn = 0; pfn < 8; ++pfn) EXPECT_THAT(Free(pfn), IsEmpty());
  EXPECT_TRUE(Take(101));
  EXPECT_THAT(Free(8), IsEmpty());
  // The place that is not known, what is supposed last, and then what was
  // freed.
  EXPECT_THAT(Free(9), ElementsAre(102, 0, 1));
  EXPECT_THAT(NeverLeft(), IsEmpty()) << "it was there, as supposed";
}

// An unlisted page comes before what was supposed would have: it was another.
TEST_F(PcpReconstructionTest, WhatWasSupposedWronglyNeverLeftTheZone) {
  TakeUnlisted();
  AssumeCached(101);
  AssumeCached(102);
  Free(1);
  EXPECT_THAT(TakeUnlisted(), ElementsAre(102, 101));
  EXPECT_THAT(NeverLeft(), ElementsAre(102, 101));
  EXPECT_EQ(others_, 0u) << "no refill: it was one of the three";
  EXPECT_EQ(per_cpu_.pages(), 3u) << "two more, and what was freed";
  EXPECT_TRUE(Take(1));
}

TEST_F(PcpReconstructionTest,
       WhatWasSupposedAndTurnsUpElsewhereLeavesItsPlace) {
  TakeUnlisted();
  AssumeCached(101);
  AssumeCached(102);
  EXPECT_THAT(EvictThrough(101), ElementsAre(101));
  EXPECT_THAT(NeverLeft(), ElementsAre(101));
  EXPECT_EQ(per_cpu_.pages(), 3u);
  EXPECT_TRUE(Take(102));
}

// 6.1's free_high: small blocks above order 0 that are freed in a row do not
// stay.
TEST_F(PcpReconstructionTest, BlocksFreedInARowEmptyTheLists) {
  for (uint64_t pfn = 0; pfn < 12; ++pfn) Free(pfn);
  EXPECT_THAT(Free(16, 1), ElementsAre(16, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_EQ(per_cpu_.pages(), 0u);
}

}  // namespace
}  // namespace guestmm::pcp_reconstruction_test
