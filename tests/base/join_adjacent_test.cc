#include "guestmm/base/join_adjacent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace guestmm::join_adjacent_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Range = std::pair<int, int>;  // start, end

std::vector<Range> Joined(std::vector<Range> ranges) {
  JoinAdjacent(
      ranges, [](const Range& a, const Range& b) { return a < b; },
      [](Range& last, const Range& range) {
        if (last.second != range.first) return false;
        last.second = range.second;
        return true;
      });
  return ranges;
}

TEST(JoinAdjacentTest, SortsAndJoins) {
  EXPECT_THAT(Joined({}), IsEmpty());
  EXPECT_THAT(Joined({{3, 4}}), ElementsAre(Range(3, 4)));
  EXPECT_THAT(Joined({{6, 8}, {0, 2}, {4, 6}, {2, 3}, {8, 9}}),
              ElementsAre(Range(0, 3), Range(4, 9)));
}

TEST(JoinAdjacentTest, KeepsRangesThatOverlapApart) {
  EXPECT_THAT(Joined({{0, 2}, {1, 3}, {3, 4}, {0, 2}}),
              ElementsAre(Range(0, 2), Range(0, 2), Range(1, 4)));
}

}  // namespace
}  // namespace guestmm::join_adjacent_test
