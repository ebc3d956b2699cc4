#include "guestmm/base/virtual_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace guestmm::virtual_time_test {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Nanoseconds kZero{0};
constexpr Nanoseconds kUs = microseconds(1);

// Works that write their letters when they run.
class VirtualTimeTest : public testing::Test {
 protected:
  Work Writes(char letter) {
    return Work([this, letter] { log_ += letter; });
  }

  VirtualTime time_{1};
  std::string log_;
};

TEST_F(VirtualTimeTest, StartsAtZeroWithNothingToDo) {
  EXPECT_EQ(time_.Now(), kZero);
  time_.RunUntilIdle();
  EXPECT_EQ(time_.Now(), kZero);
}

TEST_F(VirtualTimeTest, NothingRunsByItself) {
  Work a = Writes('a');
  time_.Queue(a);
  EXPECT_EQ(log_, "");
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "a");
}

TEST_F(VirtualTimeTest, RunsInTheOrderOfTimes) {
  Work a = Writes('a');
  Work b = Writes('b');
  Work c = Writes('c');
  time_.Queue(c, 3 * kUs);
  time_.Queue(a, 1 * kUs);
  time_.Queue(b, 2 * kUs);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "abc");
}

TEST_F(VirtualTimeTest, TimeMovesFromEventToEvent) {
  std::vector<Nanoseconds> times;
  Work first([&] { times.push_back(time_.Now()); });
  Work second([&] { times.push_back(time_.Now()); });
  time_.Queue(first, 10 * kUs);
  time_.Queue(second, 25 * kUs);
  time_.RunUntilIdle();
  EXPECT_THAT(times, ElementsAre(10 * kUs, 25 * kUs));
  EXPECT_EQ(time_.Now(), 25 * kUs);
}

TEST_F(VirtualTimeTest, QueueWhileDueDoesNothing) {
  Work a = Writes('a');
  EXPECT_TRUE(time_.Queue(a, 5 * kUs));
  EXPECT_FALSE(time_.Queue(a, 1 * kUs));
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "a");
  EXPECT_EQ(time_.Now(), 5 * kUs);
}

TEST_F(VirtualTimeTest, QueueWhileRunningRunsOnceMore) {
  int runs = 0;
  std::unique_ptr<Work> work;
  work = std::make_unique<Work>([&] {
    if (++runs == 2) return;
    EXPECT_TRUE(time_.Queue(*work, kUs));
  });
  time_.Queue(*work);
  time_.RunUntilIdle();
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(time_.Now(), kUs);
}

TEST_F(VirtualTimeTest, CancelledWorkDoesNotRunAndMayBeQueuedAgain) {
  Work a = Writes('a');
  time_.Queue(a);
  time_.CancelSync(a);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "");
  EXPECT_TRUE(time_.Queue(a));
  time_.CancelSync(a);
}

TEST_F(VirtualTimeTest, CancelOfWorkThatIsNotDueDoesNothing) {
  Work a = Writes('a');
  time_.CancelSync(a);
  EXPECT_TRUE(time_.Queue(a));
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "a");
}

// Only the one that was meant goes, of several due at one instant.
TEST_F(VirtualTimeTest, CancelLeavesOthersOfTheSameInstant) {
  Work a = Writes('a');
  Work b = Writes('b');
  Work c = Writes('c');
  for (Work* work : {&a, &b, &c}) time_.Queue(*work);
  time_.CancelSync(b);
  time_.RunUntilIdle();
  std::sort(log_.begin(), log_.end());
  EXPECT_EQ(log_, "ac");
}

TEST_F(VirtualTimeTest, RunForRunsWhatFallsDueWithinItAndNoMore) {
  Work inside = Writes('i');
  Work at_end = Writes('e');
  Work after = Writes('x');
  time_.Queue(inside, 1 * kUs);
  time_.Queue(at_end, 2 * kUs);
  time_.Queue(after, 2 * kUs + Nanoseconds(1));
  time_.RunFor(2 * kUs);
  EXPECT_EQ(log_, "ie");
  EXPECT_EQ(time_.Now(), 2 * kUs);
  time_.CancelSync(after);
}

TEST_F(VirtualTimeTest, RunForPassesTimeWithNothingToDo) {
  time_.RunFor(7 * kUs);
  EXPECT_EQ(time_.Now(), 7 * kUs);
}

TEST_F(VirtualTimeTest, RunForEndsThoughAWorkQueuesItself) {
  int runs = 0;
  std::unique_ptr<Work> work;
  work = std::make_unique<Work>([&] {
    ++runs;
    time_.Queue(*work, kUs);
  });
  time_.Queue(*work, kUs);
  time_.RunFor(10 * kUs);
  EXPECT_EQ(runs, 10);
  time_.CancelSync(*work);
}

TEST_F(VirtualTimeTest, WaitUntilEndsWhenTheConditionHolds) {
  Work a = Writes('a');
  Work b = Writes('b');
  time_.Queue(a, 1 * kUs);
  time_.Queue(b, 2 * kUs);
  EXPECT_TRUE(time_.WaitUntil([&] { return log_ == "a"; }));
  EXPECT_EQ(time_.Now(), 1 * kUs);
  time_.CancelSync(b);
}

TEST_F(VirtualTimeTest, WaitUntilRunsNothingWhenTheConditionHoldsAlready) {
  Work a = Writes('a');
  time_.Queue(a);
  EXPECT_TRUE(time_.WaitUntil([] { return true; }));
  EXPECT_EQ(log_, "");
  time_.CancelSync(a);
}

TEST_F(VirtualTimeTest, WaitUntilTimesOut) {
  Work late = Writes('l');
  time_.Queue(late, 5 * kUs);
  EXPECT_FALSE(time_.WaitUntil([&] { return !log_.empty(); }, 4 * kUs));
  EXPECT_EQ(time_.Now(), 4 * kUs);
  time_.CancelSync(late);
}

// Nothing is left that could change the condition.
TEST_F(VirtualTimeTest, WaitUntilFindsADeadlock) {
  Work a = Writes('a');
  time_.Queue(a, kUs);
  EXPECT_FALSE(time_.WaitUntil([] { return false; }));
  EXPECT_EQ(log_, "a");
  EXPECT_EQ(time_.Now(), kUs);
}

TEST_F(VirtualTimeTest, WaitUntilMayNest) {
  Work event = Writes('e');
  Work waiter([&] {
    log_ += '(';
    EXPECT_TRUE(
        time_.WaitUntil([&] { return log_.find('e') != std::string::npos; }));
    log_ += ')';
  });
  time_.Queue(waiter);
  time_.Queue(event, kUs);
  EXPECT_TRUE(time_.WaitUntil([&] { return log_.ends_with(')'); }));
  EXPECT_EQ(log_, "(e)");
}

TEST_F(VirtualTimeTest, ANestedWaitMayTimeOutUnderALongerOne) {
  Work late = Writes('l');
  Work waiter([&] {
    EXPECT_FALSE(time_.WaitUntil([] { return false; }, kUs));
    log_ += 't';
  });
  time_.Queue(waiter);
  time_.Queue(late, 3 * kUs);
  EXPECT_TRUE(time_.WaitUntil([&] { return log_ == "tl"; }, 4 * kUs));
  EXPECT_EQ(time_.Now(), 3 * kUs);
}

// Time that a work took is charged to it: what fell due meanwhile runs late,
// and the clock never goes back.
TEST_F(VirtualTimeTest, WhatFallsDueDuringAnAdvanceRunsLate) {
  std::vector<Nanoseconds> times;
  Work busy([&] { time_.Advance(10 * kUs); });
  Work due_meanwhile([&] { times.push_back(time_.Now()); });
  time_.Queue(busy);
  time_.Queue(due_meanwhile, 2 * kUs);
  time_.RunUntilIdle();
  EXPECT_THAT(times, ElementsAre(10 * kUs));
}

// The order in which eight works due at one instant run.
std::string TieOrder(uint64_t seed) {
  VirtualTime time(seed);
  std::string order;
  std::vector<std::unique_ptr<Work>> works;
  for (char letter = 'a'; letter <= 'h'; ++letter) {
    works.push_back(
        std::make_unique<Work>([&order, letter] { order += letter; }));
    time.Queue(*works.back(), kUs);
  }
  time.RunUntilIdle();
  return order;
}

TEST(VirtualTimeSeedTest, TheSameSeedGivesTheSameOrder) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(TieOrder(seed), TieOrder(seed)) << "seed " << seed;
  }
}

TEST(VirtualTimeSeedTest, OtherSeedsGiveOtherOrders) {
  std::set<std::string> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) orders.insert(TieOrder(seed));
  EXPECT_GT(orders.size(), 15u);
}

// Either of two racing works wins under some seed.
TEST(VirtualTimeSeedTest, SeedsReachBothOrdersOfTwo) {
  std::set<std::string> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    VirtualTime time(seed);
    std::string order;
    Work a([&] { order += 'a'; });
    Work b([&] { order += 'b'; });
    time.Queue(a);
    time.Queue(b);
    time.RunUntilIdle();
    orders.insert(order);
  }
  EXPECT_THAT(orders, ElementsAre("ab", "ba"));
}

TEST(VirtualTimeDestructionTest, DropsWhatIsDue) {
  bool ran = false;
  Work work([&] { ran = true; });
  {
    VirtualTime time(1);
    time.Queue(work);
  }
  EXPECT_FALSE(ran);
  VirtualTime other(1);
  EXPECT_TRUE(other.Queue(work));
  other.CancelSync(work);
}

TEST(WorkDeathTest, DestroyedWhileDue) {
  VirtualTime time(1);
  EXPECT_DEATH(
      {
        Work work([] {});
        time.Queue(work);
      },
      "a work was destroyed while it was due");
}

TEST(WorkDeathTest, CancelledOnAnotherQueue) {
  VirtualTime one(1);
  VirtualTime other(1);
  Work work([] {});
  one.Queue(work);
  EXPECT_DEATH(other.CancelSync(work), "a work is due on another queue");
  one.CancelSync(work);
}

}  // namespace
}  // namespace guestmm::virtual_time_test
