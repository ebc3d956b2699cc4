#include "src/vmm/statistics_timer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"

namespace guestmm::statistics_timer_test {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class StatisticsTimerTest : public ::testing::Test {
 protected:
  VirtualTime time_{1};
  // Guests and times of requests.
  std::vector<std::pair<uint64_t, Nanoseconds>> requests_;
  StatisticsTimer timer_{time_, [this](uint64_t guest) {
                           requests_.emplace_back(guest, time_.Now());
                         }};
};

TEST_F(StatisticsTimerTest, RequestsAtOnceAndThenAtTheInterval) {
  timer_.Set(1, seconds(3));
  EXPECT_EQ(timer_.interval(1), seconds(3));
  EXPECT_EQ(timer_.interval(2), Nanoseconds(0));
  time_.RunFor(seconds(7));
  EXPECT_THAT(requests_, ElementsAre(Pair(1, seconds(0)), Pair(1, seconds(3)),
                                     Pair(1, seconds(6))));
}

TEST_F(StatisticsTimerTest, EachGuestHasItsInterval) {
  timer_.Set(1, seconds(10));
  time_.RunFor(seconds(1));
  requests_.clear();
  // Due before what is queued.
  timer_.Set(2, seconds(4));
  time_.RunFor(seconds(9));
  EXPECT_THAT(requests_,
              UnorderedElementsAre(Pair(2, seconds(1)), Pair(2, seconds(5)),
                                   Pair(2, seconds(9)), Pair(1, seconds(10))));
}

TEST_F(StatisticsTimerTest, ANewIntervalCountsFromNow) {
  timer_.Set(1, seconds(10));
  time_.RunFor(seconds(1));
  timer_.Set(1, seconds(2));
  time_.RunFor(seconds(3));
  EXPECT_THAT(requests_, ElementsAre(Pair(1, seconds(0)), Pair(1, seconds(1)),
                                     Pair(1, seconds(3))));
}

TEST_F(StatisticsTimerTest, EndsAtNoInterval) {
  timer_.Set(1, seconds(1));
  time_.RunFor(seconds(1));
  timer_.Set(1, Nanoseconds(0));
  requests_.clear();
  time_.RunUntilIdle();
  EXPECT_THAT(requests_, IsEmpty());
}

// A late request replaces those that were missed.
TEST_F(StatisticsTimerTest, DoesNotCatchUp) {
  timer_.Set(1, seconds(1));
  time_.RunFor(seconds(0));
  time_.Advance(std::chrono::milliseconds(10'500));
  time_.RunFor(seconds(1));
  EXPECT_THAT(requests_,
              ElementsAre(Pair(1, seconds(0)),
                          Pair(1, std::chrono::milliseconds(10'500)),
                          Pair(1, std::chrono::milliseconds(11'500))));
}

}  // namespace
}  // namespace guestmm::statistics_timer_test
