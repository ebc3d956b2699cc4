#include "guestmm/base/lock.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "guestmm/base/biased_lock.h"

namespace guestmm::lock_test {
namespace {

template <typename Lock>
class LockTest : public testing::Test {};

struct LockName {
  template <typename Lock>
  static std::string GetName(int) {
    if (std::is_same_v<Lock, BiasedLock>) return "BiasedLock";
    return std::is_same_v<Lock, SpinLock> ? "SpinLock" : "Mutex";
  }
};
using Locks = testing::Types<SpinLock, Mutex, BiasedLock>;
TYPED_TEST_SUITE(LockTest, Locks, LockName);

template <typename Lock>
struct Guarded {
  Lock lock;
  int value ABSL_GUARDED_BY(lock) = 0;
};

TYPED_TEST(LockTest, OneThreadAtATime) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 5000;
  Guarded<TypeParam> counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        LockHolder hold(counter.lock);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  LockHolder hold(counter.lock);
  EXPECT_EQ(counter.value, kThreads * kRounds);
}

// The next holder sees all that the previous one wrote, plain memory included.
TYPED_TEST(LockTest, PublishesWhatWasWritten) {
  Guarded<TypeParam> ready;
  int payload = 0;
  std::thread writer([&] {
    payload = 42;
    LockHolder hold(ready.lock);
    ready.value = 1;
  });
  for (bool seen = false; !seen; std::this_thread::yield()) {
    LockHolder hold(ready.lock);
    seen = ready.value == 1;
  }
  EXPECT_EQ(payload, 42);
  writer.join();
}

TYPED_TEST(LockTest, IsFreeAfterTheScope) {
  TypeParam lock;
  { LockHolder hold(lock); }
  { LockHolder hold(lock); }
}

// Covers the yielding path of SpinLock: the holder keeps it until others wait.
TYPED_TEST(LockTest, WaitersGoOnWhenALongHolderLeaves) {
  Guarded<TypeParam> counter;
  std::vector<std::thread> waiters;
  {
    LockHolder hold(counter.lock);
    for (int i = 0; i < 3; ++i) {
      waiters.emplace_back([&] {
        LockHolder hold_too(counter.lock);
        ++counter.value;
      });
    }
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    EXPECT_EQ(counter.value, 0);
  }
  for (std::thread& waiter : waiters) waiter.join();
  LockHolder hold(counter.lock);
  EXPECT_EQ(counter.value, 3);
}

TEST(MutexTest, WorksWithAConditionVariable) {
  Guarded<Mutex> ready;
  std::condition_variable_any changed;
  std::thread setter([&] {
    {
      LockHolder hold(ready.lock);
      ready.value = 1;
    }
    changed.notify_one();
  });
  {
    LockHolder hold(ready.lock);
    while (ready.value == 0) changed.wait(ready.lock);
    EXPECT_EQ(ready.value, 1);
  }
  setter.join();
}

}  // namespace
}  // namespace guestmm::lock_test
