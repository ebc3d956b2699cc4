#include "guestmm/base/virtual_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace guestmm::virtual_time_test {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Nanoseconds kZero{0};
constexpr Nanoseconds kUs = microseconds(1);

// Works that append their letter to the log when they run.
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

// Of several works due at one instant only the given one is removed.
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

// Nothing is due any more that could change the condition.
TEST_F(VirtualTimeTest, WaitUntilFindsADeadlock) {
  Work a = Writes('a');
  time_.Queue(a, kUs);
  EXPECT_FALSE(time_.WaitUntil([] { return false; }));
  EXPECT_EQ(log_, "a");
  EXPECT_EQ(time_.Now(), kUs);
}

TEST_F(VirtualTimeTest, AWorkIsQueuedWhenItsConditionHolds) {
  bool ready = false;
  Work waiting = Writes('w');
  Work a = Writes('a');
  Work sets([&] {
    log_ += 's';
    ready = true;
  });
  EXPECT_TRUE(time_.QueueWhen(waiting, [&] { return ready; }));
  time_.Queue(a, kUs);
  time_.Queue(sets, 2 * kUs);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "asw");
  EXPECT_EQ(time_.Now(), 2 * kUs);
}

TEST_F(VirtualTimeTest, AConditionThatHoldsQueuesTheWorkAtOnce) {
  Work waiting = Writes('w');
  EXPECT_TRUE(time_.QueueWhen(waiting, [] { return true; }));
  EXPECT_FALSE(time_.Queue(waiting));  // due already
  time_.RunFor(kZero);
  EXPECT_EQ(log_, "w");
}

TEST_F(VirtualTimeTest, AWorkWaitsForOneConditionAtATime) {
  Work waiting = Writes('w');
  EXPECT_TRUE(time_.QueueWhen(waiting, [] { return false; }));
  EXPECT_FALSE(time_.QueueWhen(waiting, [] { return true; }));
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "");
  time_.CancelSync(waiting);
  EXPECT_TRUE(time_.Queue(waiting, kUs));
  EXPECT_FALSE(time_.QueueWhen(waiting, [] { return true; }));
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "w");
}

TEST_F(VirtualTimeTest, AWorkMayWaitAgainForTheSameCondition) {
  int steps = 0;
  int allowed = 0;
  Work gives([&] { ++allowed; });
  std::unique_ptr<Work> taker;
  taker = std::make_unique<Work>([&] {
    ++steps;
    if (steps < 3) time_.QueueWhen(*taker, [&] { return steps < allowed; });
  });
  time_.Queue(*taker);
  for (int i = 1; i <= 4; ++i) {
    time_.Queue(gives, kUs);
    time_.RunUntilIdle();
    EXPECT_EQ(steps, std::clamp(i, 1, 3)) << i;
  }
}

// What the caller did meanwhile counts, although no work ran.
TEST_F(VirtualTimeTest, AConditionIsLookedAtWhenTimeStartsToRun) {
  bool ready = false;
  Work waiting = Writes('w');
  EXPECT_TRUE(time_.QueueWhen(waiting, [&] { return ready; }));
  ready = true;
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "w");
}

// A poll that comes again by itself sees what the last other work has done, and
// what the caller did meanwhile, and then keeps time from nothing.
TEST_F(VirtualTimeTest, ADeferrableWorkDoesNotKeepTimeFromBeingIdle) {
  std::unique_ptr<Work> poll;
  poll = std::make_unique<Work>(
      [&] {
        log_ += 'p';
        time_.Queue(*poll, 10 * kUs);
      },
      Work::Kind::kDeferrable);
  Work a = Writes('a');
  time_.Queue(*poll);
  time_.Queue(a, kUs);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "pap");
  EXPECT_EQ(time_.Now(), 10 * kUs);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "papp");
  EXPECT_FALSE(time_.WaitUntil([] { return false; }));
  EXPECT_EQ(log_, "pappp");
  time_.RunFor(20 * kUs);
  EXPECT_EQ(log_, "pappppp");
  time_.CancelSync(*poll);
}

TEST_F(VirtualTimeTest, AWorkMayNotWait) {
  EXPECT_TRUE(time_.MayWait());
  bool may_wait = true;
  Work work([&] { may_wait = time_.MayWait(); });
  time_.Queue(work);
  time_.RunUntilIdle();
  EXPECT_FALSE(may_wait);
  EXPECT_TRUE(time_.MayWait());
}

TEST_F(VirtualTimeTest, AWorkMayWaitForAnotherQueue) {
  VirtualTime other(1);
  Work event = Writes('e');
  other.Queue(event, kUs);
  Work waiter([&] { other.RunUntilIdle(); });
  time_.Queue(waiter);
  time_.RunUntilIdle();
  EXPECT_EQ(log_, "e");
}

// A work is charged the time it takes: works that fell due meanwhile run late,
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

// Six works, due together in each of ten rounds; with `other` one more work is
// queued from the second round on. Returns the order in which the six ran.
std::string OrderOfRounds(uint64_t seed, bool other) {
  constexpr int kRounds = 10;
  VirtualTime time(seed);
  std::string order;
  std::vector<std::unique_ptr<Work>> works;
  for (char letter = 'a'; letter <= 'f'; ++letter) {
    works.push_back(
        std::make_unique<Work>([&order, letter] { order += letter; }));
  }
  int others = 0;
  Work unrelated([&] { ++others; });
  for (int round = 0; round < kRounds; ++round) {
    if (other && round > 0) time.Queue(unrelated, kUs);
    for (const auto& work : works) time.Queue(*work, kUs);
    time.RunUntilIdle();
  }
  EXPECT_EQ(others, other ? kRounds - 1 : 0);
  return order;
}

TEST(VirtualTimeSeedTest, AnotherEventLeavesTheOrderOfTheOthers) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(OrderOfRounds(seed, false), OrderOfRounds(seed, true))
        << "seed " << seed;
  }
}

// A work that is due already does not use up a tie.
TEST(VirtualTimeSeedTest, QueueingAgainWhileDueLeavesTheOrder) {
  const auto order = [](uint64_t seed, int times) {
    VirtualTime time(seed);
    std::string log;
    Work a([&] { log += 'a'; });
    Work b([&] { log += 'b'; });
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < times; ++i) time.Queue(a);
      time.Queue(b);
      time.RunUntilIdle();
    }
    return log;
  };
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(order(seed, 1), order(seed, 3)) << "seed " << seed;
  }
}

// The order is drawn anew at each queueing, not once for each pair of works.
TEST(VirtualTimeSeedTest, OrdersDifferFromRoundToRound) {
  const std::string order = OrderOfRounds(1, false);
  std::set<std::string> rounds;
  for (size_t at = 0; at < order.size(); at += 6) {
    rounds.insert(order.substr(at, 6));
  }
  EXPECT_GT(rounds.size(), 5u);
}

TEST(VirtualTimeDeathTest, AWorkThatWaits) {
  VirtualTime time(1);
  const auto run = [&](std::function<void()> wait) {
    Work work(std::move(wait));
    time.Queue(work);
    time.RunUntilIdle();
  };
  constexpr char kMessage[] = "a work waited for its own workqueue";
  EXPECT_DEATH(run([&] { time.WaitUntil([] { return true; }); }), kMessage);
  EXPECT_DEATH(run([&] { time.RunFor(kUs); }), kMessage);
  EXPECT_DEATH(run([&] { time.RunUntilIdle(); }), kMessage);
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
