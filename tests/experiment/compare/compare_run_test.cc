#include "src/experiment/compare/compare_run.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>

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

}  // namespace
}  // namespace guestmm::compare_run_test
