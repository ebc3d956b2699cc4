// What VirtualDensityTime charges for, and to whom.

#include "src/experiment/density/density_time.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::density_time_test {
namespace {

// Each cost is one decimal digit of the time that it is charged to.
CostModel Costs() {
  CostModel costs;
  costs.allocate = 1;
  costs.free = 10;
  costs.guest_fault = 100;
  costs.guest_zero_page = 1'000;
  costs.exit = 2'000;
  costs.host_fault_4k = 3'000;
  costs.host_zero_4k = 1'000;
  costs.read_page = 100'000;
  costs.report = 1;
  costs.kick = 10;
  costs.interrupt = 100;
  costs.discard_call = 1'000;
  costs.discard_4k = 10'000;
  return costs;
}

class VirtualDensityTimeTest : public ::testing::Test {
 protected:
  VirtualDensityTimeTest() {
    time_.Place(options_);
    backing_ = options_.make_backing(*ram_);
    hypervisor_ = options_.make_hypervisor(*ram_);
    time_.BeginSteps();
  }

  // The time that the step took that ends now.
  Nanoseconds EndStep() {
    const Nanoseconds begun = time_.Now();
    time_.Pass(Nanoseconds(0));
    return time_.Now() - begun;
  }

  const std::unique_ptr<GuestRam> ram_ =
      *GuestRam::Create({.regions = {{Gpa(0), 4 * kMiB}}});
  VirtualDensityTime time_{/*seed=*/1, Costs()};
  GuestOptions options_;
  std::unique_ptr<Backing> backing_;
  std::unique_ptr<Hypervisor> hypervisor_;
};

TEST_F(VirtualDensityTimeTest, AStepTakesWhatItsVcpuDoes) {
  backing_->OnAllocated(0, Pfn(0), Order(1));
  EXPECT_EQ(EndStep(), Nanoseconds(1));
  backing_->Touch(0, Pfn(0), Order(1), /*stamp=*/1);
  EXPECT_EQ(EndStep(), Nanoseconds(14'100));
  EXPECT_EQ(backing_->FindCorrupted(0, Pfn(0), Order(1), /*stamp=*/1),
            std::nullopt);
  EXPECT_EQ(EndStep(), Nanoseconds(200'000));
  backing_->OnFreed(0, Pfn(0), Order(1));
  EXPECT_EQ(EndStep(), Nanoseconds(10));
}

TEST_F(VirtualDensityTimeTest, AReportTakesACallForEachRunAndItsPages) {
  const std::vector<GpaRange> ranges = {{Gpa(0), 2 * kPageSize},
                                        {Gpa(2 * kPageSize), kPageSize},
                                        {Gpa(kMiB), kPageSize}};
  ASSERT_EQ(hypervisor_->Discard(ranges), absl::OkStatus());
  EXPECT_EQ(time_.Now(), Nanoseconds(42'111));
  EXPECT_EQ(hypervisor_->counters().bytes, 4 * kPageSize);
}

TEST_F(VirtualDensityTimeTest, AVcpuGoesOnWhileAReportIsOut) {
  Nanoseconds ran{0};
  Work work([&] { ran = time_.Now(); });
  const GpaRange page = {Gpa(0), kPageSize};
  ASSERT_EQ(hypervisor_->Discard({&page, 1}), absl::OkStatus());
  const Nanoseconds reported = time_.Now();
  options_.virtual_time->Queue(work);
  // Steps that began before the report's end run before what follows on it.
  time_.Pass(reported - Nanoseconds(10));
  EXPECT_EQ(time_.Now(), reported);
  EXPECT_EQ(ran, Nanoseconds(0));
  time_.Pass(Nanoseconds(30));
  EXPECT_EQ(ran, reported);
  EXPECT_EQ(time_.Now(), reported + Nanoseconds(20));
}

}  // namespace
}  // namespace guestmm::density_time_test
