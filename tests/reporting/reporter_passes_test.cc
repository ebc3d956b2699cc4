// When a pass begins: after a delay, by NextPass, never two at a time. And that
// taken blocks reach a policy that asks for them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/reporting_policy.h"
#include "tests/testing/fake_device.h"

namespace guestmm::reporter_passes_test {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// Requests a pass with every free, and does in a pass what the test scripts.
class ScriptedPolicy final : public ReportingPolicy {
 public:
  std::string_view name() const override { return "scripted"; }
  Order min_order() const override { return Order(0); }
  size_t capacity() const override { return 1; }
  TakenBlocks taken_blocks() const override { return wants_taken; }
  Nanoseconds delay() const override { return pass_delay; }

  absl::Status Enable(const ReportingEnvironment& environment) override {
    zone_ = &environment.zones.front();
    clock_ = &environment.clock;
    return absl::OkStatus();
  }
  void Disabling() override { on_disabling(); }
  void Disable() override { in_pass_ = false; }
  bool BlockFreed(ReportableZone&, Pfn, Order) override { return true; }
  void BlocksTaken(ReportableZone&, std::span<const PfnRange> runs,
                   Order order) override {
    for (const PfnRange& run : runs) {
      taken.emplace_back(run.start.value(), order.value());
    }
  }
  std::optional<Nanoseconds> NextPass() override {
    ++looked_ahead;
    on_next_pass();
    if (next.empty()) return std::nullopt;
    const Nanoseconds after = next.back();
    next.pop_back();
    return after;
  }
  bool NextBatch(Scatterlist& list) override {
    if (!in_pass_) passes.push_back(clock_->Now());
    in_pass_ = batches > 0;
    if (!in_pass_) return false;
    --batches;
    LockHolder hold(zone_->lock());
    list.Add(zone_->Isolate(Pfn(0)).value());
    return true;
  }
  void ReturnBatch(Scatterlist& list, bool) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      LockHolder hold(zone_->lock());
      zone_->Return(std::move(block));
    }
  }

  TakenBlocks wants_taken = TakenBlocks::kIgnore;
  Nanoseconds pass_delay{0};
  // What NextPass returns, the last first.
  std::vector<Nanoseconds> next;
  // The number of further reports of the block at pfn 0.
  int batches = 0;
  // Called by Disabling and by NextPass.
  std::function<void()> on_disabling = [] {};
  std::function<void()> on_next_pass = [] {};

  // When each pass began.
  std::vector<Nanoseconds> passes;
  int looked_ahead = 0;
  std::vector<std::pair<uint64_t, int>> taken;

 private:
  ReportableZone* zone_ = nullptr;
  const Clock* clock_ = nullptr;
  bool in_pass_ = false;
};

class ReporterPassesTest : public ::testing::Test {
 protected:
  ReporterPassesTest()
      : allocator_(PageAllocator::Create(
                       {.memory = {{Pfn(0), Pfn(17)}},
                        .max_order = Order(3),
                        .min_free_kbytes = 0,
                        .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 1}})
                       .value()) {
    auto policy = std::make_unique<ScriptedPolicy>();
    policy_ = policy.get();
    reporter_ =
        std::make_unique<Reporter>(*allocator_, time_, std::move(policy));
  }

  void Enable() { EXPECT_EQ(reporter_->Enable(device_), absl::OkStatus()); }
  void AllocateAndFree() {
    allocator_->Free(0, allocator_->Allocate(0, Order(3)).value(), Order(3));
  }

  VirtualTime time_{1};
  std::unique_ptr<PageAllocator> allocator_;
  FakeDevice device_{time_, seconds(3)};
  ScriptedPolicy* policy_ = nullptr;
  std::unique_ptr<Reporter> reporter_;
};

TEST_F(ReporterPassesTest, APassBeginsItsDelayAfterItWasAskedFor) {
  policy_->pass_delay = seconds(2);
  Enable();
  time_.RunFor(seconds(1));
  AllocateAndFree();
  EXPECT_FALSE(reporter_->AtRest());
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(3)));
  EXPECT_TRUE(reporter_->AtRest());
}

TEST_F(ReporterPassesTest, WhatAsksMeanwhileAsksForTheSamePass) {
  policy_->pass_delay = seconds(2);
  Enable();
  AllocateAndFree();
  time_.RunFor(seconds(1));
  AllocateAndFree();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2)));
}

TEST_F(ReporterPassesTest, APassAskedForDuringAnotherFollowsIt) {
  policy_->pass_delay = seconds(2);
  policy_->batches = 1;
  Enable();
  AllocateAndFree();
  // The first pass's report is in flight from 2 s to 5 s; the next pass falls
  // due at 4.5 s.
  time_.RunFor(std::chrono::milliseconds(2500));
  AllocateAndFree();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2), seconds(5)));
}

TEST_F(ReporterPassesTest, ThePolicyHasAFirstPassIfItWants) {
  policy_->next = {seconds(2)};
  Enable();
  EXPECT_FALSE(reporter_->AtRest());
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2)));
  EXPECT_TRUE(reporter_->AtRest());
}

TEST_F(ReporterPassesTest, ThePolicyIsAskedAfterEachPass) {
  policy_->next = {seconds(3), seconds(1), seconds(2)};
  Enable();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2), seconds(3), seconds(6)));
  EXPECT_EQ(policy_->looked_ahead, 4);
}

TEST_F(ReporterPassesTest, APassThatIsDueStaysDueWhateverAsks) {
  policy_->pass_delay = seconds(9);
  policy_->next = {seconds(2)};
  Enable();
  time_.RunFor(seconds(1));
  AllocateAndFree();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2)));
}

TEST_F(ReporterPassesTest, NoPassBeginsOnceDisabled) {
  policy_->pass_delay = seconds(2);
  Enable();
  AllocateAndFree();
  time_.RunFor(seconds(1));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  EXPECT_TRUE(reporter_->AtRest());
  time_.RunFor(seconds(10));
  EXPECT_THAT(policy_->passes, IsEmpty());

  Enable();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, IsEmpty());
}

TEST_F(ReporterPassesTest, DisablingWaitsForTheReportAndEndsThePass) {
  policy_->next = {seconds(1), seconds(1)};
  policy_->batches = 5;
  Enable();
  time_.RunFor(seconds(2));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  EXPECT_EQ(time_.Now(), seconds(4));
  EXPECT_EQ(policy_->batches, 4);
  EXPECT_EQ(policy_->looked_ahead, 1);
  EXPECT_TRUE(reporter_->AtRest());
}

// The pass has fallen due while the report is in flight that Disable waits for.
TEST_F(ReporterPassesTest, APassThatWasDueIsForgottenOnceDisabled) {
  policy_->pass_delay = seconds(2);
  policy_->batches = 1;
  Enable();
  AllocateAndFree();
  time_.RunFor(std::chrono::milliseconds(2500));
  AllocateAndFree();
  time_.RunFor(std::chrono::milliseconds(2200));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  EXPECT_EQ(time_.Now(), seconds(5));
  Enable();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(2)));
}

// A block is freed while the reporter is disabled, just before it no longer
// observes the zones.
TEST_F(ReporterPassesTest, NoPassIsDueOfWhatAskedWhileItWasDisabled) {
  policy_->pass_delay = seconds(2);
  policy_->on_disabling = [this] { AllocateAndFree(); };
  Enable();
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  time_.RunFor(seconds(1));
  Enable();
  AllocateAndFree();
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->passes, ElementsAre(seconds(3)));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
}

TEST_F(ReporterPassesTest, IsNotAtRestBeforeThePolicyWasAsked) {
  bool at_rest = true;
  policy_->on_next_pass = [&] { at_rest = reporter_->AtRest(); };
  Enable();
  time_.RunUntilIdle();
  EXPECT_FALSE(at_rest);
  EXPECT_TRUE(reporter_->AtRest());
}

TEST_F(ReporterPassesTest, APolicyThatAsksForItHearsOfBlocksTaken) {
  policy_->wants_taken = TakenBlocks::kTell;
  Enable();
  const Pfn pfn = allocator_->Allocate(0, Order(3)).value();
  EXPECT_THAT(policy_->taken, ElementsAre(Pair(pfn.value(), 3)));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  static_cast<void>(allocator_->Allocate(0, Order(0)));
  EXPECT_EQ(policy_->taken.size(), 1u);
}

TEST_F(ReporterPassesTest, APolicyThatDoesNotAskHearsOfNone) {
  Enable();
  static_cast<void>(allocator_->Allocate(0, Order(3)));
  EXPECT_THAT(policy_->taken, IsEmpty());
}

}  // namespace
}  // namespace guestmm::reporter_passes_test
