#include "guestmm/base/biased_lock.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <latch>
#include <string>
#include <thread>
#include <vector>

namespace guestmm::biased_lock_test {
namespace {

// Two plain numbers that are equal whenever the lock is free. A thread that
// enters beside a holder loses a count, makes them differ, or is reported as a
// race by the sanitizer.
struct Guarded {
  explicit Guarded(Bias bias = Bias::kAllowed) : lock(bias) {}

  // True if they were equal.
  bool Add() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    const int before = first;
    first = before + 1;
    // Keeps the compiler from merging the two increments.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const bool well = second == before;
    second = before + 1;
    return well;
  }

  bool AddAsOwner() {
    LockHolder hold(lock);
    return Add();
  }
  bool AddAsVisitor() {
    VisitorHolder hold(lock);
    return Add();
  }
  int Count() {
    VisitorHolder hold(lock);
    return first;
  }

  BiasedLock lock;
  int first ABSL_GUARDED_BY(lock) = 0;
  int second ABSL_GUARDED_BY(lock) = 0;
};

// Runs it on a new thread, which ends before this returns.
template <typename Function>
void InAThread(Function function) {
  std::thread(function).join();
}

// How the bias moves. Needs membarrier(2), which Linux has since 4.14.
class BiasTest : public testing::Test {
 protected:
  void SetUp() override {
    BiasedLock lock;
    { LockHolder hold(lock); }
    ASSERT_TRUE(lock.biased()) << "there is no membarrier(2) here";
  }
};

TEST_F(BiasTest, TheFirstToLockBecomesTheOwner) {
  Guarded guarded;
  EXPECT_FALSE(guarded.lock.biased());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(guarded.AddAsOwner());
    EXPECT_TRUE(guarded.lock.biased());
  }
  EXPECT_EQ(guarded.Count(), 3);
}

TEST_F(BiasTest, AVisitorDoesNotBecomeTheOwner) {
  Guarded guarded;
  EXPECT_TRUE(guarded.AddAsVisitor());
  EXPECT_FALSE(guarded.lock.biased());
  EXPECT_TRUE(guarded.AddAsOwner());
  EXPECT_TRUE(guarded.lock.biased());
}

TEST_F(BiasTest, TheOwnerStaysTheOwnerThroughManyVisits) {
  Guarded guarded;
  EXPECT_TRUE(guarded.AddAsOwner());
  constexpr int kVisits = 10 * BiasedLock::kMaxOwners;
  for (int i = 0; i < kVisits; ++i) {
    InAThread([&] {
      VisitorHolder hold(guarded.lock);
      EXPECT_FALSE(guarded.lock.biased());
      EXPECT_TRUE(guarded.Add());
    });
    EXPECT_TRUE(guarded.lock.biased());
    EXPECT_TRUE(guarded.AddAsOwner());
  }
  EXPECT_TRUE(guarded.lock.biased());
  EXPECT_EQ(guarded.Count(), 1 + 2 * kVisits);
}

TEST_F(BiasTest, TheOwnerVisitsItsOwnLockForNothing) {
  Guarded guarded;
  EXPECT_TRUE(guarded.AddAsOwner());
  {
    VisitorHolder hold(guarded.lock);
    EXPECT_TRUE(guarded.lock.biased());
    EXPECT_TRUE(guarded.Add());
  }
  EXPECT_TRUE(guarded.AddAsOwner());
  EXPECT_EQ(guarded.Count(), 3);
}

TEST_F(BiasTest, MovesToTheNextThreadUntilOwnersRunOut) {
  Guarded guarded;
  std::latch end(1);
  std::vector<std::thread> owners;
  for (uint32_t i = 0; i < BiasedLock::kMaxOwners; ++i) {
    std::latch added(1);
    owners.emplace_back([&] {
      EXPECT_TRUE(guarded.AddAsOwner());
      EXPECT_TRUE(guarded.AddAsOwner());
      added.count_down();
      end.wait();
    });
    added.wait();
    EXPECT_TRUE(guarded.lock.biased());
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(guarded.AddAsOwner());
    EXPECT_FALSE(guarded.lock.biased());
    InAThread([&] { EXPECT_TRUE(guarded.AddAsVisitor()); });
    EXPECT_FALSE(guarded.lock.biased());
  }
  end.count_down();
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(guarded.Count(), 2 * static_cast<int>(BiasedLock::kMaxOwners) + 6);
}

TEST_F(BiasTest, AThreadThatHasEndedLeavesItsPlaceToTheNext) {
  Guarded guarded;
  for (uint32_t i = 0; i < 10 * BiasedLock::kMaxOwners; ++i) {
    InAThread([&] { EXPECT_TRUE(guarded.AddAsOwner()); });
    EXPECT_TRUE(guarded.lock.biased()) << i;
  }
  EXPECT_TRUE(guarded.AddAsOwner());
  EXPECT_TRUE(guarded.lock.biased());
}

// A thread_local object that is made before the lock is first used, and so ends
// after that was noted.
TEST_F(BiasTest, AThreadThatLocksAsItEndsIsNotTakenForEnded) {
  static Guarded guarded;
  struct LocksAtItsEnd {
    ~LocksAtItsEnd() { EXPECT_TRUE(guarded.AddAsOwner()); }
    int used = 0;
  };
  for (uint32_t i = 0; i < 2 * BiasedLock::kMaxOwners; ++i) {
    InAThread([] {
      thread_local LocksAtItsEnd at_its_end;
      ++at_its_end.used;
      EXPECT_TRUE(guarded.AddAsOwner());
    });
  }
  EXPECT_EQ(guarded.Count(), 4 * static_cast<int>(BiasedLock::kMaxOwners));
}

TEST_F(BiasTest, AnOwnerThatLostItGetsItBack) {
  Guarded guarded;
  EXPECT_TRUE(guarded.AddAsOwner());
  InAThread([&] { EXPECT_TRUE(guarded.AddAsOwner()); });
  EXPECT_TRUE(guarded.AddAsOwner());
  VisitorHolder hold(guarded.lock);
  EXPECT_TRUE(guarded.lock.biased()) << "its owner visits: for nothing";
}

TEST_F(BiasTest, OneThreadHoldsTwoAtOnce) {
  Guarded outer;
  Guarded inner;
  for (int i = 0; i < 3; ++i) {
    LockHolder hold_outer(outer.lock);
    LockHolder hold_inner(inner.lock);
    EXPECT_TRUE(outer.Add());
    EXPECT_TRUE(inner.Add());
  }
  InAThread([&] {
    VisitorHolder hold_outer(outer.lock);
    VisitorHolder hold_inner(inner.lock);
    EXPECT_FALSE(outer.lock.biased());
    EXPECT_FALSE(inner.lock.biased());
    EXPECT_TRUE(outer.Add());
    EXPECT_TRUE(inner.Add());
  });
  EXPECT_TRUE(outer.AddAsOwner());
  EXPECT_TRUE(inner.AddAsOwner());
  EXPECT_TRUE(outer.lock.biased());
  EXPECT_TRUE(inner.lock.biased());
}

TEST(BiasedLockTest, NeverBiasedIsASpinLock) {
  Guarded guarded(Bias::kNever);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(guarded.AddAsOwner());
    EXPECT_FALSE(guarded.lock.biased());
    EXPECT_TRUE(guarded.AddAsVisitor());
    InAThread([&] { EXPECT_TRUE(guarded.AddAsOwner()); });
    EXPECT_FALSE(guarded.lock.biased());
  }
  EXPECT_EQ(guarded.Count(), 9);
}

// Only the lock orders the two writes of each payload.
TEST(BiasedLockTest, PublishesBothWays) {
  struct {
    BiasedLock lock;
    int turn ABSL_GUARDED_BY(lock) = 0;
  } shared;
  int from_owner = 0;
  int from_visitor = -1;
  constexpr int kRounds = 500;
  std::thread visitor([&] {
    for (int round = 0; round < kRounds; std::this_thread::yield()) {
      VisitorHolder hold(shared.lock);
      if (shared.turn == 2 * round + 1) {
        EXPECT_EQ(from_owner, round);
        from_visitor = round;
        ++shared.turn;
        ++round;
      }
    }
  });
  for (int round = 0; round < kRounds; std::this_thread::yield()) {
    LockHolder hold(shared.lock);
    if (shared.turn == 2 * round) {
      EXPECT_EQ(from_visitor, round - 1);
      from_owner = round;
      ++shared.turn;
      ++round;
    }
  }
  visitor.join();
}

struct Mix {
  const char* name;
  int owners;    // threads that Lock()
  int visitors;  // threads that LockAsVisitor()
  int both;      // threads that do one, then the other
  Bias bias = Bias::kAllowed;
};

class BiasedLockMixTest : public testing::TestWithParam<Mix> {};

TEST_P(BiasedLockMixTest, OneThreadAtATime) {
  constexpr int kRounds = 3000;
  Guarded guarded(GetParam().bias);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  const auto start = [&](int count, auto as_owner) {
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&guarded, &wrong, as_owner] {
        for (int round = 0; round < kRounds; ++round) {
          const bool well =
              as_owner(round) ? guarded.AddAsOwner() : guarded.AddAsVisitor();
          if (!well) ++wrong;
        }
      });
    }
  };
  start(GetParam().owners, [](int) { return true; });
  start(GetParam().visitors, [](int) { return false; });
  start(GetParam().both, [](int round) { return round % 2 == 0; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(guarded.Count(), kRounds * static_cast<int>(threads.size()));
}

INSTANTIATE_TEST_SUITE_P(
    Mixes, BiasedLockMixTest,
    testing::Values(Mix{"OneOwnerOneVisitor", 1, 1, 0},
                    Mix{"OneOwnerThreeVisitors", 1, 3, 0},
                    Mix{"VisitorsOnly", 0, 3, 0}, Mix{"TwoOwners", 2, 0, 0},
                    Mix{"ManyOwners", 8, 0, 0},
                    Mix{"OwnersAndVisitors", 3, 3, 0}, Mix{"All", 2, 2, 2},
                    Mix{"NeverBiased", 2, 2, 0, Bias::kNever}),
    [](const auto& mix) { return std::string(mix.param.name); });

// Runs the two halves of the protocol against each other as often as possible:
// a visit meets an owner on the fast path, if the owner is running. On x86 this
// fails without the membarrier: the visitor reads while the owner's store is
// still in its store buffer, behind stores that miss the caches.
TEST(BiasedLockTest, AnOwnerInATightLoopAndAVisitor) {
  constexpr int kVisits = 200'000;
  constexpr int kMostLooks = 2000;
  constexpr int kStoresInFront = 8;
  constexpr size_t kStride = 67 * 64;  // in bytes; no two in one cache line
  std::vector<char> elsewhere(size_t{16} << 20);
  Guarded guarded;
  std::atomic<int> turns = 0;
  std::atomic<bool> done = false;
  int wrong_for_owner = 0;
  int wrong_for_visitor = 0;
  std::thread owner([&] {
    size_t at = 0;
    while (!done.load(std::memory_order_relaxed)) {
      for (int i = 0; i < kStoresInFront; ++i) {
        elsewhere[at] = 1;
        at = (at + kStride) % elsewhere.size();
      }
      if (!guarded.AddAsOwner()) ++wrong_for_owner;
      // Not fetch_add, which would drain the store buffer.
      turns.store(turns.load(std::memory_order_relaxed) + 1,
                  std::memory_order_relaxed);
    }
  });
  for (int i = 0; i < kVisits; ++i) {
    const int before = turns.load(std::memory_order_relaxed);
    int looks = kMostLooks;  // the owner may be without a processor
    while (turns.load(std::memory_order_relaxed) == before && --looks > 0) {
    }
    if (!guarded.AddAsVisitor()) ++wrong_for_visitor;
  }
  done = true;
  owner.join();
  EXPECT_EQ(wrong_for_owner, 0);
  EXPECT_EQ(wrong_for_visitor, 0);
  EXPECT_EQ(guarded.Count(), turns + kVisits);
}

// Ends only if the owner gets in between back-to-back visits.
TEST(BiasedLockTest, VisitsBackToBackDoNotStarveTheOwner) {
  constexpr int kTurns = 30;
  Guarded guarded;
  std::atomic<int> visits = 0;
  std::atomic<bool> done = false;
  EXPECT_TRUE(guarded.AddAsOwner());
  std::thread visitor([&] {
    while (!done) {
      EXPECT_TRUE(guarded.AddAsVisitor());
      ++visits;
    }
  });
  for (int turn = 0; turn < kTurns; ++turn) {
    const int before = visits;
    while (visits == before) std::this_thread::yield();
    EXPECT_TRUE(guarded.AddAsOwner());
  }
  done = true;
  visitor.join();
  EXPECT_EQ(guarded.Count(), 1 + kTurns + visits);
}

// Owners that change while others lock. A lock allows that only a few times, so
// there are many locks, and threads that move from one to the next together.
TEST(BiasedLockTest, OwnersThatChangeWhileTheyLock) {
  constexpr int kLocks = 4000;
  constexpr int kThreads = 3;
  constexpr int kTurns = 20;
  std::deque<Guarded> all(kLocks);
  std::array<std::atomic<int>, kThreads> at{};
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int self = 0; self < kThreads; ++self) {
    threads.emplace_back([&, self] {
      for (int i = 0; i < kLocks; ++i) {
        at[self] = i;
        for (const std::atomic<int>& other : at) {
          while (other < i) std::this_thread::yield();
        }
        for (int turn = 0; turn < kTurns; ++turn) {
          const bool well = self == 0 && turn % 4 == 3 ? all[i].AddAsVisitor()
                                                       : all[i].AddAsOwner();
          if (!well) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  for (Guarded& guarded : all) EXPECT_EQ(guarded.Count(), kThreads * kTurns);
}

}  // namespace
}  // namespace guestmm::biased_lock_test
