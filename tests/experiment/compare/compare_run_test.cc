#include "src/experiment/compare/compare_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/model/model_machine.h"
#include "guestmm/mechanism/mechanisms.h"

namespace guestmm::compare_run_test {
namespace {

constexpr auto kPolicies = MechanismOption::kPolicies;

std::unique_ptr<Mechanism> Make(const char* text) {
  return MakeMechanism(kPolicies, ParseMechanism(kPolicies, text).value(),
                       {PolicyContext(Order(0))})
      .value();
}

class FillCountersTest : public testing::Test {
 protected:
  // After the guest has freed a block and come to rest.
  void Run(const char* mechanism) {
    ASSERT_TRUE(machine_->StartMechanism(Make(mechanism)).ok());
    Vcpu& vcpu = machine_->vcpu(0);
    const Pfn pfn = vcpu.Allocate(kPageblockOrder).value();
    vcpu.Touch(pfn, kPageblockOrder, /*stamp=*/1);
    vcpu.Free(pfn, kPageblockOrder);
    EXPECT_TRUE(machine_->WaitUntilAtRest(std::chrono::seconds(60)));
  }

  VirtualTime time_{1};
  const std::unique_ptr<ModelMachine> machine_ =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time_)
          .value();
  CompareRow row_;
};

TEST_F(FillCountersTest, OffHasNoColumnsOfWhatItDoesNotDo) {
  Run("off");
  FillCounters(*machine_, row_);
  EXPECT_EQ(row_.reports, 0u);
  EXPECT_EQ(row_.reported_over_needed, std::nullopt);
  EXPECT_EQ(row_.lock_max_us, std::nullopt);
}

// Any mechanism may name memory to the host and hold locks.
TEST_F(FillCountersTest, ColumnsDoNotDependOnAReporter) {
  Run("linux");
  machine_->StopReporting();
  ASSERT_EQ(machine_->reporter(), nullptr);
  FillCounters(*machine_, row_);
  EXPECT_TRUE(row_.reported_over_needed.has_value());
  EXPECT_TRUE(row_.lock_max_us.has_value());
  EXPECT_TRUE(row_.lock_mean_us.has_value());
}

// Two blocks that are not adjacent are one report.
TEST_F(FillCountersTest, ColumnsAreWhatTheMachineCounts) {
  ASSERT_TRUE(machine_->StartMechanism(Make("linux")).ok());
  EXPECT_TRUE(machine_->WaitUntilAtRest(std::chrono::seconds(60)));
  const MachineCounters before = machine_->counters();
  const uint64_t reports = machine_->mechanism()->counters().requests;
  Vcpu& vcpu = machine_->vcpu(0);
  std::vector<Pfn> blocks;
  for (int i = 0; i < 4; ++i) {
    blocks.push_back(vcpu.Allocate(kMaxOrder).value());
    vcpu.Touch(blocks.back(), kMaxOrder, /*stamp=*/1);
  }
  for (const size_t i : {0, 2}) vcpu.Free(blocks[i], kMaxOrder);
  EXPECT_TRUE(machine_->WaitUntilAtRest(std::chrono::seconds(60)));
  // Touched at the instant at which they came back.
  for (const size_t i : {0, 2}) {
    ASSERT_TRUE(vcpu.Allocate(kMaxOrder).has_value());
    vcpu.Touch(blocks[i], kMaxOrder, /*stamp=*/1);
  }
  FillCounters(*machine_, row_);
  EXPECT_EQ(row_.reports, reports + 1);
  EXPECT_EQ(row_.kicks, before.kicks + 1);
  EXPECT_EQ(row_.discard_calls, before.discard_calls + 2);
  EXPECT_EQ(row_.refaults_1s, 2 * kMaxOrder.pages().value());
  EXPECT_EQ(row_.failed_while_isolated, 0u);
  const HoldTimes holds = machine_->counters().holds;
  EXPECT_DOUBLE_EQ(*row_.lock_max_us * 1000, static_cast<double>(holds.max));
  EXPECT_DOUBLE_EQ(*row_.lock_mean_us * 1000 * static_cast<double>(holds.count),
                   static_cast<double>(holds.sum));
}

// The guest's kernel is a 32nd of its memory.
TEST_F(FillCountersTest, BootTakesTheKernelsMemory) {
  const auto recipe = std::ranges::find(
      WorkloadRecipes(), "churn",
      [](const WorkloadRecipe& r) { return r.workload.name; });
  ASSERT_NE(recipe, WorkloadRecipes().end());
  CompareSetup setup;
  setup.recipe = &*recipe;
  setup.guest_bytes = 256 * kMiB;
  Random random(1);
  ASSERT_TRUE(Boot(*machine_, setup, random).ok());
  EXPECT_EQ(machine_->allocator().Counts().allocated().bytes(), 8 * kMiB);
}

// A block of 16 pages leaves one of each order from 4 to 8, and larger ones.
TEST_F(FillCountersTest, SharesAreOfAllFreeMemoryAndOfReportableBlocks) {
  ASSERT_TRUE(machine_->vcpu(0).Allocate(Order(4)).has_value());
  const auto free =
      static_cast<double>(machine_->allocator().Counts().free.value());
  const auto resident = [](Pfn, Order order) {
    return order < kPageblockOrder ? order.pages() : PageCount(0);
  };
  CompareOptions options = {.reportable_order = kPageblockOrder};
  FillShares(options, machine_->allocator(), resident, row_);
  EXPECT_DOUBLE_EQ(*row_.host_share_of_free, 1 - 496 / free);
  EXPECT_EQ(row_.host_share_of_reportable, 1);
  options.reportable_order = Order(7);
  FillShares(options, machine_->allocator(), resident, row_);
  EXPECT_DOUBLE_EQ(*row_.host_share_of_reportable, 1 - 384 / (free - 112));
}

// 2000 bytes had come back by the end of the work, at 10 s; then 10,000 do: 40
// % at 11 s, 50 % at 12 s, 90 % at 14 s, 99 % at 20 s and all at 30 s.
TEST(FillTimesTest, TimesAreFromTheEndOfTheWork) {
  using std::chrono::seconds;
  const std::vector<DiscardedUntil> discards = {
      {seconds(8), 1000},  {seconds(10), 2000},  {seconds(11), 6000},
      {seconds(12), 7000}, {seconds(14), 11000}, {seconds(20), 11900},
      {seconds(30), 12000}};
  CompareRow row;
  FillTimes(seconds(10), discards, row);
  EXPECT_EQ(row.time_to_50_s, 2);
  EXPECT_EQ(row.time_to_90_s, 4);
  EXPECT_EQ(row.time_to_99_s, 10);
  FillTimes(seconds(0), discards, row);
  EXPECT_EQ(row.time_to_50_s, 11);
  FillTimes(seconds(30), discards, row);
  EXPECT_EQ(row.time_to_50_s, std::nullopt) << "nothing came back after that";
  EXPECT_EQ(row.time_to_99_s, std::nullopt);
}

TEST(GibMinutesTest, AGibHeldForAMinuteIsOne) {
  EXPECT_EQ(GibMinutes(262144 * 60e6), 1);
}

}  // namespace
}  // namespace guestmm::compare_run_test
