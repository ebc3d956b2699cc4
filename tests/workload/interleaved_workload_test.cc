#include "guestmm/workload/interleaved_workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/counting_backing.h"

namespace guestmm::interleaved_workload_test {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::Optional;

// Logs its name at each step.
class NamedWorkload final : public Workload {
 public:
  NamedWorkload(char name, Nanoseconds quiet, int steps, std::string& log)
      : name_(name), quiet_(quiet), steps_(steps), log_(log) {}

  std::optional<Nanoseconds> Step(Vcpu&) override {
    log_ += name_;
    ++done_;
    if (done_ == steps_) return std::nullopt;
    return quiet_;
  }
  uint64_t work() const override { return static_cast<uint64_t>(done_); }

 private:
  const char name_;
  const Nanoseconds quiet_;
  const int steps_;
  std::string& log_;
  int done_ = 0;
};

class InterleavedWorkloadTest : public testing::Test {
 protected:
  void Add(char name, Nanoseconds quiet, int steps) {
    members_.push_back(
        std::make_unique<NamedWorkload>(name, quiet, steps, log_));
  }
  InterleavedWorkload Make() {
    return InterleavedWorkload(std::move(members_));
  }

  CountingGuest guest_{16 * kMiB};
  std::string log_;
  std::vector<std::unique_ptr<Workload>> members_;
};

TEST_F(InterleavedWorkloadTest, StepsWhicheverIsDueFirst) {
  Add('a', milliseconds(30), 4);
  Add('b', milliseconds(20), 4);
  InterleavedWorkload workload = Make();
  Nanoseconds passed{0};
  while (const auto quiet = workload.Step(guest_.vcpu())) passed += *quiet;
  // a at 0, 30, 60, 90; b at 0, 20, 40, 60, each some us later.
  EXPECT_EQ(log_, "abbababa");
  EXPECT_GT(passed, milliseconds(89));
  EXPECT_LE(passed, milliseconds(90));
  EXPECT_EQ(workload.work(), 8u);
}

TEST_F(InterleavedWorkloadTest, SaysHowLongUntilTheNext) {
  Add('a', milliseconds(30), 2);
  Add('b', milliseconds(20), 2);
  InterleavedWorkload workload = Make();
  EXPECT_THAT(workload.Step(guest_.vcpu()), Optional(Nanoseconds(0)));
  const Nanoseconds quiet = workload.Step(guest_.vcpu()).value();
  EXPECT_LE(quiet, milliseconds(20));
  EXPECT_GT(quiet, milliseconds(19));
  EXPECT_TRUE(workload.Step(guest_.vcpu()).has_value());
  EXPECT_EQ(log_, "abb");
  EXPECT_EQ(workload.Step(guest_.vcpu()), std::nullopt);
  EXPECT_EQ(log_, "abba");
  // It stays ended.
  EXPECT_EQ(workload.Step(guest_.vcpu()), std::nullopt);
  EXPECT_EQ(log_, "abba");
}

TEST_F(InterleavedWorkloadTest, OneThatNeverPausesLeavesTheOthersTheirTurns) {
  Add('a', Nanoseconds(0), 1000);
  Add('b', std::chrono::microseconds(100), 1000);
  InterleavedWorkload workload = Make();
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THAT(workload.Step(guest_.vcpu()), Optional(Nanoseconds(0)));
  }
  const auto b = std::count(log_.begin(), log_.end(), 'b');
  EXPECT_GE(b, 9);
  EXPECT_LE(b, 11);
}

// Touches 10,000 pages a step, which takes 10 ms.
class Slow final : public Workload {
 public:
  explicit Slow(std::string& log) : log_(log) {}
  std::optional<Nanoseconds> Step(Vcpu&) override {
    log_ += 's';
    work_ += 10'000;
    return Nanoseconds(0);
  }
  uint64_t work() const override { return work_; }

 private:
  std::string& log_;
  uint64_t work_ = 0;
};

// b is due every millisecond, and late by nine: a time that it missed does not
// come back.
TEST_F(InterleavedWorkloadTest, OneThatIsLateRunsOnceAndNotForEachTimeMissed) {
  members_.push_back(std::make_unique<Slow>(log_));
  Add('b', milliseconds(1), 100);
  InterleavedWorkload workload = Make();
  for (int i = 0; i < 8; ++i) workload.Step(guest_.vcpu());
  EXPECT_EQ(log_, "sbsbsbsb");
}

TEST_F(InterleavedWorkloadTest, OfNoneEndsAtOnce) {
  InterleavedWorkload workload = Make();
  EXPECT_EQ(workload.Step(guest_.vcpu()), std::nullopt);
  EXPECT_EQ(workload.work(), 0u);
}

// Does nothing, in no time.
class Spinning final : public Workload {
 public:
  std::optional<Nanoseconds> Step(Vcpu&) override {
    ++steps;
    return Nanoseconds(0);
  }
  uint64_t work() const override { return 0; }
  int steps = 0;
};

TEST(InterleavedTest, AStepWithoutWorkLeavesTheOthersTheirTurn) {
  CountingGuest guest(64 * kMiB);
  std::vector<std::unique_ptr<Workload>> members;
  members.push_back(std::make_unique<Spinning>());
  auto made = std::make_unique<Spinning>();
  const Spinning& second = *made;
  members.push_back(std::move(made));
  InterleavedWorkload both(std::move(members));
  for (int i = 0; i < 100; ++i) both.Step(guest.vcpu());
  EXPECT_EQ(second.steps, 50);
}

}  // namespace
}  // namespace guestmm::interleaved_workload_test
