// Guest as a Machine: its ledger, its mechanism, its clock.

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/machine/real/coarse_clock.h"

namespace guestmm::guest_machine_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::unique_ptr<Mechanism> Make(const std::string& text) {
  constexpr auto kOption = MechanismOption::kMechanisms;
  return MakeMechanism(kOption, ParseMechanism(kOption, text).value(),
                       {PolicyContext(Order(0))})
      .value();
}

class GuestMachineTest : public testing::Test {
 protected:
  absl::Status ErrorOf() { return Guest::Create(options_).status(); }

  VirtualTime time_{1};
  GuestOptions options_ = [] {
    GuestOptions options;
    options.memory = MemoryMap::Pc(256 * kMiB);
    return options;
  }();
};

TEST_F(GuestMachineTest, CreateStartsTheMechanism) {
  options_.virtual_time = &time_;
  options_.make_mechanism = [] { return Make("reporting:v12:order=4"); };
  const auto guest = Guest::Create(options_).value();
  ASSERT_NE(guest->mechanism(), nullptr);
  EXPECT_EQ(guest->mechanism()->text(), "reporting:v12:order=4");
  ASSERT_NE(guest->reporter(), nullptr);
  EXPECT_EQ(guest->reporter()->policy().min_order(), Order(4));
}

// More ranges than a balloon takes that is not set up for a policy.
TEST_F(GuestMachineTest, TheBalloonHasTheCapacityOfTheMechanismsPolicy) {
  options_.virtual_time = &time_;
  options_.balloon_features = kBalloonFPageReporting;
  options_.make_mechanism = [] { return Make("reporting:linux:capacity=64"); };
  EXPECT_EQ(ErrorOf(), absl::OkStatus());
}

TEST_F(GuestMachineTest, ABalloonIsSetUpForAMechanismThatHasNone) {
  options_.virtual_time = &time_;
  options_.balloon_features = kBalloonFPageReporting;
  options_.make_mechanism = [] { return Make("off"); };
  const auto guest = Guest::Create(options_).value();
  EXPECT_NE(guest->driver(), nullptr);
  EXPECT_EQ(guest->reporter(), nullptr);
}

TEST_F(GuestMachineTest, ReportsOnlyOnce) {
  options_.virtual_time = &time_;
  options_.make_mechanism = [] { return Make("reporting:v12"); };
  const auto guest = Guest::Create(options_).value();
  EXPECT_EQ(guest->StartReporting(
                MakePolicy({.name = "v12"}, PolicyContext(Order(0))).value()),
            absl::FailedPreconditionError("the guest is already reporting"));
}

TEST_F(GuestMachineTest, RefusesAMechanismWithAPolicy) {
  options_.make_policy = [] {
    return MakePolicy({.name = "v12"}, PolicyContext(Order(0))).value();
  };
  options_.make_mechanism = [] { return Make("off"); };
  EXPECT_EQ(ErrorOf(), absl::InvalidArgumentError(
                           "make_mechanism: must be unset with make_policy"));
}

TEST_F(GuestMachineTest, RefusesALedgerWithABackingOfItsOwn) {
  options_.ledger_granule = Order(0);
  options_.make_backing = [](const GuestRam& ram) {
    return std::make_unique<RamBacking>(ram);
  };
  EXPECT_EQ(ErrorOf(), absl::InvalidArgumentError(
                           "ledger_granule: must be unset with make_backing"));
}

TEST_F(GuestMachineTest, RefusesALedgerWithAVmm) {
  options_.ledger_granule = Order(0);
  options_.memory_source = MemorySource::kSharedMemfd;
  options_.vmm_socket = "/nonexistent";
  EXPECT_EQ(ErrorOf(),
            absl::InvalidArgumentError("ledger_granule: must be unset with "
                                       "vmm_socket, whose VMM discards"));
}

TEST_F(GuestMachineTest, WithoutALedgerNothingIsAccounted) {
  const auto guest = Guest::Create(options_).value();
  EXPECT_EQ(guest->ledger(), nullptr);
  EXPECT_TRUE(guest->discards().empty());
  EXPECT_EQ(guest->counters().kicks, 0U);
  EXPECT_EQ(guest->counters().discard_calls, 0U);
  EXPECT_EQ(guest->counters().holds.count, 0U);
  EXPECT_TRUE(guest->status().ok());
}

TEST_F(GuestMachineTest, APageThatLostItsContentsIsDataLoss) {
  options_.ledger_granule = Order(0);
  const auto guest = Guest::Create(options_).value();
  const Pfn pfn = guest->vcpu(0).Allocate(Order(0)).value();
  guest->vcpu(0).Touch(pfn, Order(0), /*stamp=*/1);
  EXPECT_TRUE(guest->status().ok());
  EXPECT_EQ(guest->vcpu(0).FindCorrupted(pfn, Order(0), /*stamp=*/2), pfn);
  EXPECT_EQ(guest->status(),
            absl::DataLossError("a page in use lost its contents"));
}

TEST_F(GuestMachineTest, TheLedgersClockMayBeAnother) {
  CoarseClock coarse;
  coarse.Set(seconds(42));
  options_.virtual_time = &time_;
  options_.ledger_granule = Order(0);
  options_.ledger_clock = &coarse;
  options_.make_mechanism = [] { return Make("reporting:linux"); };
  const auto guest = Guest::Create(options_).value();
  const Pfn pfn = guest->vcpu(0).Allocate(kMaxOrder).value();
  guest->vcpu(0).Touch(pfn, kMaxOrder, /*stamp=*/1);
  guest->vcpu(0).Free(pfn, kMaxOrder);
  EXPECT_TRUE(guest->WaitUntilAtRest(seconds(60)));
  ASSERT_FALSE(guest->discards().empty());
  EXPECT_EQ(guest->discards().back().when, seconds(42));
  EXPECT_LT(guest->Now(), seconds(42));
}

TEST_F(GuestMachineTest, RunUntilRunsItsVirtualTime) {
  options_.virtual_time = &time_;
  const auto guest = Guest::Create(options_).value();
  guest->RunUntil(seconds(5));
  EXPECT_EQ(time_.Now(), seconds(5));
  guest->RunUntil(seconds(3));
  EXPECT_EQ(guest->Now(), seconds(5));
}

TEST_F(GuestMachineTest, RunUntilWaitsOnThreads) {
  const auto guest = Guest::Create(options_).value();
  const Nanoseconds until = guest->Now() + milliseconds(1);
  guest->RunUntil(until);
  EXPECT_GE(guest->Now(), until);
}

// On threads, with a mechanism that starts after Create.
TEST_F(GuestMachineTest, AMechanismMayStartLater) {
  options_.ledger_granule = Order(0);
  const auto guest = Guest::Create(options_).value();
  const Pfn pfn = guest->vcpu(0).Allocate(kMaxOrder).value();
  guest->vcpu(0).Touch(pfn, kMaxOrder, /*stamp=*/1);
  guest->vcpu(0).Free(pfn, kMaxOrder);
  ASSERT_TRUE(guest->StartMechanism(Make("reporting:linux:delay=0")).ok());
  EXPECT_TRUE(guest->WaitUntilAtRest(seconds(60)));
  // linux leaves one pageblock of a zone that it reports as a whole.
  EXPECT_LT(guest->ledger()->resident_pages(), kMaxOrder.pages());
  guest->StopMechanism();
  EXPECT_EQ(guest->reporter(), nullptr);
}

}  // namespace
}  // namespace guestmm::guest_machine_test
