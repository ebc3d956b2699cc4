#include "guestmm/base/thread_workqueue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace guestmm::thread_workqueue_test {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

// Holds the queue's thread inside a work until Release().
class Gate {
 public:
  explicit Gate(Workqueue& workqueue) : workqueue_(workqueue) {
    workqueue_.Queue(work_);
    entered_.wait();
  }
  ~Gate() {
    Release();
    workqueue_.CancelSync(work_);
  }
  void Release() {
    if (!released_.try_wait()) released_.count_down();
  }

 private:
  Workqueue& workqueue_;
  std::latch entered_{1};
  std::latch released_{1};
  Work work_{[this] {
    entered_.count_down();
    released_.wait();
  }};
};

TEST(ThreadWorkqueueTest, RunsOnAThreadOfItsOwn) {
  ThreadWorkqueue queue;
  std::atomic<bool> ran = false;
  std::thread::id id;
  Work work([&] {
    id = std::this_thread::get_id();
    ran = true;
  });
  EXPECT_TRUE(queue.Queue(work));
  EXPECT_TRUE(queue.WaitUntil([&] { return ran.load(); }));
  EXPECT_NE(id, std::this_thread::get_id());
}

TEST(ThreadWorkqueueTest, RunsInTheOrderOfQueueing) {
  ThreadWorkqueue queue;
  std::string log;  // written by the queue's thread, read once it is idle
  std::atomic<int> runs = 0;
  std::vector<std::unique_ptr<Work>> works;
  {
    Gate gate(queue);
    for (char letter = 'a'; letter <= 'e'; ++letter) {
      works.push_back(std::make_unique<Work>([&log, &runs, letter] {
        log += letter;
        ++runs;
      }));
      queue.Queue(*works.back());
    }
  }
  EXPECT_TRUE(queue.WaitUntil([&] { return runs == 5; }));
  EXPECT_EQ(log, "abcde");
}

TEST(ThreadWorkqueueTest, WhatIsDueSoonerGoesFirst) {
  ThreadWorkqueue queue;
  std::atomic<bool> late_ran = false;
  std::atomic<bool> soon_ran = false;
  Work late([&] { late_ran = true; });
  Work soon([&] { soon_ran = true; });
  queue.Queue(late, hours(1));
  queue.Queue(soon);
  EXPECT_TRUE(queue.WaitUntil([&] { return soon_ran.load(); }));
  EXPECT_FALSE(late_ran);
  queue.CancelSync(late);
}

TEST(ThreadWorkqueueTest, ADelayIsTheLeastTimeThatPasses) {
  ThreadWorkqueue queue;
  const MonotonicClock clock;
  std::atomic<bool> ran = false;
  Work work([&] { ran = true; });
  queue.Queue(work, milliseconds(2));
  EXPECT_TRUE(queue.WaitUntil([&] { return ran.load(); }));
  EXPECT_GE(clock.Now(), milliseconds(2));
}

TEST(ThreadWorkqueueTest, QueueWhileDueDoesNothing) {
  ThreadWorkqueue queue;
  std::atomic<int> runs = 0;
  std::atomic<bool> last_ran = false;
  Work work([&] { ++runs; });
  Work last([&] { last_ran = true; });
  {
    Gate gate(queue);
    EXPECT_TRUE(queue.Queue(work));
    EXPECT_FALSE(queue.Queue(work));
    queue.Queue(last);
  }
  EXPECT_TRUE(queue.WaitUntil([&] { return last_ran.load(); }));
  EXPECT_EQ(runs, 1);
}

TEST(ThreadWorkqueueTest, QueueWhileRunningRunsOnceMore) {
  ThreadWorkqueue queue;
  std::latch entered{1};
  std::latch queued_again{1};
  std::atomic<int> runs = 0;
  Work work([&] {
    if (++runs > 1) return;
    entered.count_down();
    queued_again.wait();
  });
  queue.Queue(work);
  entered.wait();
  EXPECT_TRUE(queue.Queue(work));
  queued_again.count_down();
  EXPECT_TRUE(queue.WaitUntil([&] { return runs == 2; }));
  queue.CancelSync(work);
}

TEST(ThreadWorkqueueTest, CancelSyncTakesOffWhatIsDue) {
  ThreadWorkqueue queue;
  std::atomic<bool> ran = false;
  Work work([&] { ran = true; });
  queue.Queue(work, hours(1));
  queue.CancelSync(work);
  EXPECT_TRUE(queue.Queue(work, hours(1))) << "it was due still";
  queue.CancelSync(work);
  EXPECT_FALSE(ran);
}

TEST(ThreadWorkqueueTest, CancelSyncWaitsForWhatIsRunning) {
  ThreadWorkqueue queue;
  std::latch entered{1};
  std::atomic<bool> cancelling = false;
  bool finished = false;  // not atomic: CancelSync orders the accesses
  Work work([&] {
    entered.count_down();
    while (!cancelling) std::this_thread::yield();
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    finished = true;
  });
  queue.Queue(work);
  entered.wait();
  cancelling = true;
  queue.CancelSync(work);
  EXPECT_TRUE(finished);
}

TEST(ThreadWorkqueueTest, CancelSyncStopsAWorkThatQueuesItself) {
  ThreadWorkqueue queue;
  std::latch entered{1};
  std::atomic<int> runs = 0;
  std::unique_ptr<Work> work;
  work = std::make_unique<Work>([&] {
    if (++runs == 1) entered.count_down();
    queue.Queue(*work);
  });
  queue.Queue(*work);
  entered.wait();
  queue.CancelSync(*work);
  const int runs_then = runs;
  Gate pass_by(queue);  // if due, it would have run first
  EXPECT_EQ(runs, runs_then);
}

TEST(ThreadWorkqueueTest, AWorkMayCancelItself) {
  ThreadWorkqueue queue;
  std::atomic<int> runs = 0;
  std::unique_ptr<Work> work;
  work = std::make_unique<Work>([&] {
    queue.Queue(*work);
    queue.CancelSync(*work);
    ++runs;
  });
  queue.Queue(*work);
  EXPECT_TRUE(queue.WaitUntil([&] { return runs == 1; }));
  Gate pass_by(queue);
  EXPECT_EQ(runs, 1);
}

TEST(ThreadWorkqueueTest, WaitUntilReturnsAtOnceWhenTheConditionHolds) {
  ThreadWorkqueue queue;
  EXPECT_TRUE(queue.WaitUntil([] { return true; }));
}

TEST(ThreadWorkqueueTest, WaitUntilTimesOut) {
  ThreadWorkqueue queue;
  const MonotonicClock clock;
  EXPECT_FALSE(queue.WaitUntil([] { return false; }, milliseconds(1)));
  EXPECT_GE(clock.Now(), milliseconds(1));
}

TEST(ThreadWorkqueueTest, WaitUntilWithNoTimeOnlyLooks) {
  ThreadWorkqueue queue;
  EXPECT_FALSE(queue.WaitUntil([] { return false; }, Nanoseconds(0)));
  EXPECT_TRUE(queue.WaitUntil([] { return true; }, Nanoseconds(0)));
}

TEST(ThreadWorkqueueTest, WaitUntilLooksOnTheCallersThread) {
  ThreadWorkqueue queue;
  std::atomic<bool> ran = false;
  Work work([&] { ran = true; });
  queue.Queue(work);
  const std::thread::id caller = std::this_thread::get_id();
  EXPECT_TRUE(queue.WaitUntil([&] {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    return ran.load();
  }));
}

// The condition is evaluated without the queue's lock, so it may use the queue.
TEST(ThreadWorkqueueTest, TheConditionMayUseTheQueue) {
  ThreadWorkqueue queue;
  std::atomic<int> runs = 0;
  Work work([&] { ++runs; });
  EXPECT_TRUE(queue.WaitUntil([&] {
    queue.Queue(work);
    return runs >= 3;
  }));
  queue.CancelSync(work);
}

TEST(ThreadWorkqueueTest, SeveralThreadsWaitAtOnce) {
  ThreadWorkqueue queue;
  std::atomic<bool> ran = false;
  std::atomic<int> released = 0;
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      if (queue.WaitUntil([&] { return ran.load(); })) ++released;
    });
  }
  Work work([&] { ran = true; });
  queue.Queue(work);
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(released, 3);
}

// What they wait for may have been done by the caller that cancels the work.
TEST(ThreadWorkqueueTest, AfterACancelWaitersLookAgain) {
  ThreadWorkqueue queue;
  Work late([] {});
  queue.Queue(late, hours(1));
  std::atomic<bool> done = false;
  std::latch looked{1};
  bool is_first = true;
  std::thread waiter([&] {
    EXPECT_TRUE(queue.WaitUntil([&] {
      if (std::exchange(is_first, false)) looked.count_down();
      return done.load();
    }));
  });
  looked.wait();
  done = true;
  queue.CancelSync(late);
  waiter.join();
}

TEST(ThreadWorkqueueTest, AnyThreadMayQueueAndCancel) {
  ThreadWorkqueue queue;
  int runs = 0;  // used by the queue's thread alone
  Work work([&] { ++runs; });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 500; ++round) {
        queue.Queue(work);
        if (i == 0 && round % 10 == 0) queue.CancelSync(work);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  queue.CancelSync(work);
  EXPECT_LE(runs, 4 * 500);
}

TEST(ThreadWorkqueueTest, DestructionDropsWhatIsDue) {
  std::atomic<bool> ran = false;
  Work work([&] { ran = true; });
  {
    ThreadWorkqueue queue;
    queue.Queue(work, hours(1));
  }
  EXPECT_FALSE(ran);
}

TEST(ThreadWorkqueueTest, DestructionWaitsForWhatIsRunning) {
  bool finished = false;
  std::latch entered{1};
  Work work([&] {
    entered.count_down();
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    finished = true;
  });
  {
    ThreadWorkqueue queue;
    queue.Queue(work);
    entered.wait();
  }
  EXPECT_TRUE(finished);
}

TEST(ThreadWorkqueueTest, OnlyItsWorksMayNotWait) {
  ThreadWorkqueue queue;
  EXPECT_TRUE(queue.MayWait());
  std::atomic<int> answer = -1;
  Work work([&] { answer = queue.MayWait() ? 1 : 0; });
  queue.Queue(work);
  EXPECT_TRUE(queue.WaitUntil([&] { return answer != -1; }));
  EXPECT_EQ(answer, 0);
}

TEST(ThreadWorkqueueDeathTest, AWorkMayNotWaitForItsOwnQueue) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadWorkqueue queue;
        Work work([&] { queue.WaitUntil([] { return true; }); });
        queue.Queue(work);
        queue.WaitUntil([] { return false; });
      },
      "a work waited for its own workqueue");
}

TEST(MonotonicClockTest, NeverGoesBack) {
  const MonotonicClock clock;
  Nanoseconds before = clock.Now();
  EXPECT_GE(before, Nanoseconds(0));
  for (int i = 0; i < 1000; ++i) {
    const Nanoseconds now = clock.Now();
    EXPECT_GE(now, before);
    before = now;
  }
}

}  // namespace
}  // namespace guestmm::thread_workqueue_test
