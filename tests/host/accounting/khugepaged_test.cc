#include "src/host/accounting/khugepaged.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "guestmm/base/virtual_time.h"

namespace guestmm::khugepaged_test {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

// 2 huge pages, a hole, and 8 more, the last of them in part.
TEST(KhugepagedTest, VisitsEightHugePagesEveryTenSecondsInTurn) {
  VirtualTime time(/*seed=*/1);
  std::vector<uint64_t> visited;
  const Khugepaged khugepaged(
      time,
      MemoryMap{{Pfn(0), Pfn(1024)}, {Pfn(5120), Pfn(5120 + 7 * 512 + 1)}},
      [&](Pfn pfn) { visited.push_back(pfn.value() / 512); });
  time.RunFor(seconds(9));
  EXPECT_THAT(visited, IsEmpty());
  time.RunFor(seconds(2));
  EXPECT_THAT(visited, ElementsAre(0, 1, 10, 11, 12, 13, 14, 15));
  visited.clear();
  time.RunFor(seconds(10));
  EXPECT_THAT(visited, ElementsAre(16, 17, 0, 1, 10, 11, 12, 13));
}

TEST(KhugepagedTest, DoesNotKeepTimeFromBeingIdle) {
  VirtualTime time(/*seed=*/1);
  int visits = 0;
  {
    const Khugepaged khugepaged(time, MemoryMap{{Pfn(0), Pfn(512)}},
                                [&](Pfn) { ++visits; });
    time.RunUntilIdle();
  }
  const int before = visits;
  time.RunFor(seconds(100));
  EXPECT_EQ(visits, before) << "it has ended";
}

}  // namespace
}  // namespace guestmm::khugepaged_test
