// What a host that maps memory in granules has of a replayed guest: residency
// computed by hand.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "guestmm/experiment/replay/replay.h"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_granule_test {
namespace {

using std::chrono::seconds;

const char* const kPolicies[] = {"v12:order=5:threshold=1", "linux:order=5",
                                 "adaptive:order=5"};

class ReplayGranuleTest : public HandmadeReplayTest {
 protected:
  // Pages resident at the end.
  uint64_t Resident(const std::string& policy, Order granule,
                    bool khugepaged = false) {
    ReplayOptions options;
    options.policy = policy;
    options.granule = granule;
    options.khugepaged = khugepaged;
    options.tail = seconds(30);
    result_ = Run(options);
    return result_.samples.back().resident_bytes / kPageSize;
  }

  ReplayResult result_;
};

// 128 KiB of 2 MiB are freed.
TEST_F(ReplayGranuleTest, ADiscardOfAPartSplitsTheGranule) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst, 5);
  for (const char* const policy : kPolicies) {
    SCOPED_TRACE(policy);
    for (const Order granule : {Order(0), Order(4), kPageblockOrder}) {
      EXPECT_EQ(Resident(policy, granule), 480u);
      EXPECT_EQ(result_.free_at_end.fragmented, 0u);
      EXPECT_EQ(result_.free_at_end.with_host, result_.free_at_end.bytes);
    }
  }
  EXPECT_EQ(Resident("linux", kPageblockOrder), 512u);
  EXPECT_EQ(result_.free_at_end.fragmented, 32 * kPageSize);
}

// A page of them is touched again: of the split huge page it is mapped by
// itself; of 64 KiB of which nothing is mapped, with its neighbours.
TEST_F(ReplayGranuleTest, ATouchOfAHoleMapsWhatIsNotSplit) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst, 5);
  Alloc(30.0, kFirst, 0);
  for (const char* const policy : kPolicies) {
    SCOPED_TRACE(policy);
    EXPECT_EQ(Resident(policy, Order(0)), 480u + 1);
    EXPECT_EQ(Resident(policy, kPageblockOrder), 480u + 1);
    // The 15 others are free again, but adaptive reports none below 128 KiB.
    EXPECT_EQ(Resident(policy, Order(4)), 480u + 16);
  }
}

TEST_F(ReplayGranuleTest, AHugePageFreedAsAWholeIsMappedAsAWhole) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst, 8);
  Free(30.0, kFirst + 256, 8);
  Alloc(60.0, kFirst, 0);
  // Memory that is taken asks for no pass; this does.
  Alloc(61.0, kFirst + 4096, 10);
  Free(62.0, kFirst + 4096, 10);
  for (const char* const policy : {"linux:order=5", "adaptive:order=5"}) {
    SCOPED_TRACE(policy);
    EXPECT_EQ(Resident(policy, Order(0)), 1u);
    // They report all 2 MiB when the second half comes. Then one page takes 2
    // MiB, of which they report what is free in 128 KiB or more.
    EXPECT_EQ(Resident(policy, kPageblockOrder), 32u);
  }
}

TEST_F(ReplayGranuleTest, KhugepagedMakesASplitGranuleWhole) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst, 5);
  EXPECT_EQ(Resident("linux:order=5", kPageblockOrder, /*khugepaged=*/true),
            512u);
  EXPECT_EQ(Resident("off", kPageblockOrder, /*khugepaged=*/true), 512u);
  for (const Order granule : {Order(0), Order(4)}) {
    EXPECT_EQ(
        Replay(recording_, {.granule = granule, .khugepaged = true}).status(),
        absl::InvalidArgumentError(
            "--khugepaged=on: must be off with granules below 2 MiB: without "
            "huge pages it has no effect"));
  }
}

}  // namespace
}  // namespace guestmm::replay_granule_test
