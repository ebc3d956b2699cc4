#include "src/experiment/replay/lists_at_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "src/experiment/replay/replayed_guest.h"
#include "tests/testing/handmade_recording.h"

namespace guestmm::lists_at_start_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// 64 pages, of which the first 32 are in use.
class ListsAtStartTest : public HandmadeRecordingTest {
 protected:
  ListsAtStartTest() : HandmadeRecordingTest(64, 32) {}

  std::vector<uint64_t> Listed() const {
    WriteTrace();
    std::vector<uint64_t> pfns;
    for (const TraceEvent& event : FindShownLists(recording_, {}).at_start) {
      pfns.push_back(event.pfn.value() - kFirst);
    }
    return pfns;
  }
};

TEST_F(ListsAtStartTest, AreWhatIsAllocatedOrDrainedFirst) {
  Free(10.0, kFirst + 1, 0);
  Alloc(10.1, kFirst + 1, 0);  // was in use
  Alloc(10.2, kFirst + 2, 0);
  Drain(10.3, kFirst + 4, 1);
  Drain(10.4, kFirst + 1, 0);
  Alloc(10.5, kFirst + 4, 1);
  Alloc(10.6, kFirst + 2, 1);   // one of its pages was seen
  Alloc(10.7, kFirst + 16, 4);  // no list has such a block
  Alloc(10.8, kFirst + 40, 0);  // was free
  EXPECT_THAT(Listed(), ElementsAre(2, 4));
}

TEST_F(ListsAtStartTest, ATraceOfRequestsDoesNotTell) {
  Alloc(10.0, kFirst + 2, 0);
  EXPECT_THAT(Listed(), IsEmpty());
  AddDamage();
  Drain(10.1, kFirst + 3, 0);
  EXPECT_THAT(Listed(), IsEmpty());
}

// Lists that are only ever filled cannot be followed.
TEST_F(ListsAtStartTest, WithoutDrainsATraceDoesNotTell) {
  LeaveZone(10.0, kFirst + 40, 0);
  Alloc(10.1, kFirst + 2, 0);
  WriteTrace();
  EXPECT_TRUE(FindShownLists(recording_, {}).only_from_zones);
  EXPECT_THAT(Listed(), IsEmpty());
  Drain(10.2, kFirst + 40, 0);
  EXPECT_THAT(Listed(), ElementsAre(2));
  EXPECT_FALSE(FindShownLists(recording_, {}).only_from_zones);
}

TEST_F(ListsAtStartTest, RequestsAfterTheLastMoveAreCounted) {
  Alloc(10.0, kFirst + 40, 0);
  Drain(10.1, kFirst + 1, 0);
  Alloc(10.2, kFirst + 41, 0);
  Free(10.3, kFirst + 41, 0);
  WriteTrace();
  const ShownLists shown = FindShownLists(recording_, {});
  EXPECT_EQ(shown.requests, 3u);
  EXPECT_EQ(shown.requests_after_moves, 2u);
}

TEST_F(ListsAtStartTest, WithoutAFirstStateNothingIsKnown) {
  Drain(10.0, kFirst + 2, 0);
  EXPECT_THAT(Listed(), ElementsAre(2));
  recording_.first.reset();
  EXPECT_THAT(Listed(), IsEmpty());
}

TEST(KernelOfTest, IsThatOfTheRelease) {
  Recording recording;
  for (const char* const release : {"", "5.10.0", "6.1.0-56-amd64", "6.6.1"}) {
    recording.kernel = release;
    EXPECT_EQ(KernelOf(recording), KernelVersion::kV6_1) << release;
  }
  for (const char* const release :
       {"6.7.0", "6.12.95+deb12-amd64", "7.0-rc1"}) {
    recording.kernel = release;
    EXPECT_EQ(KernelOf(recording), KernelVersion::kV6_12) << release;
  }
}

}  // namespace
}  // namespace guestmm::lists_at_start_test
