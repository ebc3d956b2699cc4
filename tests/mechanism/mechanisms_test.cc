#include "guestmm/mechanism/mechanisms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/machine.h"
#include "guestmm/machine/model/model_machine.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "src/reporting/forwarding_policy.h"

namespace guestmm::mechanisms_test {
namespace {

constexpr auto kMechanisms = MechanismOption::kMechanisms;

// Of a host that maps 4 KiB at a time.
const MechanismContext kContext = {.policy = PolicyContext(Order(0))};

MechanismSpec Spec(const std::string& text) {
  return ParseMechanism(kMechanisms, text).value();
}

std::unique_ptr<Mechanism> Make(const std::string& text) {
  return MakeMechanism(kMechanisms, Spec(text), kContext).value();
}

// Allocates, touches and frees `bytes` in the largest blocks.
void TouchAndFree(Machine& machine, uint64_t bytes) {
  Vcpu& vcpu = machine.vcpu(0);
  std::vector<Pfn> blocks;
  for (uint64_t done = 0; done < bytes; done += kPageblockOrder.bytes()) {
    const Pfn pfn = vcpu.Allocate(kPageblockOrder).value();
    vcpu.Touch(pfn, kPageblockOrder, /*stamp=*/1);
    blocks.push_back(pfn);
  }
  for (const Pfn pfn : blocks) vcpu.Free(pfn, kPageblockOrder);
}

// Runs on either kind of machine; both keep a ledger.
void HandsFreeMemoryBack(Machine& machine) {
  ASSERT_TRUE(machine.StartMechanism(Make("reporting:linux")).ok());
  ASSERT_NE(machine.mechanism(), nullptr);
  EXPECT_EQ(machine.mechanism()->name(), "reporting");
  EXPECT_EQ(machine.mechanism()->text(), "reporting:linux");
  TouchAndFree(machine, 16 * kMiB);
  EXPECT_GE(machine.ledger()->resident_pages().bytes(), 16 * kMiB);
  EXPECT_TRUE(machine.WaitUntilAtRest(std::chrono::seconds(60)));
  EXPECT_EQ(machine.ledger()->resident_pages(), PageCount(0));
  const MechanismCounters counters = machine.mechanism()->counters();
  EXPECT_GE(counters.bytes, 16 * kMiB);
  EXPECT_GT(counters.requests, 0U);
  EXPECT_EQ(counters.failed_requests, 0U);
  EXPECT_GT(machine.counters().kicks, 0U);
  EXPECT_GT(machine.counters().discard_calls, 0U);
  EXPECT_GT(machine.counters().holds.count, 0U);
  ASSERT_FALSE(machine.discards().empty());
  EXPECT_GE(machine.discards().back().bytes, 16 * kMiB);
  EXPECT_TRUE(machine.CheckInvariants().ok());
  EXPECT_TRUE(machine.status().ok());

  // Ignores targets.
  machine.mechanism()->SetTarget(0);
  EXPECT_TRUE(machine.mechanism()->AtRest());

  machine.StopMechanism();
  EXPECT_EQ(machine.mechanism(), nullptr);
  EXPECT_EQ(machine.reporter(), nullptr);
  TouchAndFree(machine, 16 * kMiB);
  EXPECT_TRUE(machine.WaitUntilAtRest(std::chrono::seconds(60)));
  EXPECT_GE(machine.ledger()->resident_pages().bytes(), 16 * kMiB);

  // A second one finds what the first was not there for.
  ASSERT_TRUE(machine.StartMechanism(Make("reporting:linux")).ok());
  EXPECT_TRUE(machine.WaitUntilAtRest(std::chrono::seconds(60)));
  EXPECT_EQ(machine.ledger()->resident_pages(), PageCount(0));
}

TEST(MechanismsTest, ReportingHandsFreeMemoryBackInAModel) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time).value();
  HandsFreeMemoryBack(*machine);
}

TEST(MechanismsTest, ReportingHandsFreeMemoryBackForReal) {
  VirtualTime time(1);
  GuestOptions options = {.memory = MemoryMap::Pc(256 * kMiB)};
  options.ledger_granule = Order(0);
  options.virtual_time = &time;
  const auto machine = Guest::Create(options).value();
  HandsFreeMemoryBack(*machine);
}

TEST(MechanismsTest, OffHandsNothingBack) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time).value();
  ASSERT_TRUE(machine->StartMechanism(Make("off")).ok());
  EXPECT_EQ(machine->mechanism()->text(), "off");
  TouchAndFree(*machine, 16 * kMiB);
  machine->RunUntil(std::chrono::minutes(1));
  EXPECT_GE(machine->ledger()->resident_pages().bytes(), 16 * kMiB);
  EXPECT_EQ(machine->mechanism()->counters().requests, 0U);
}

// Counts how often it is checked.
class CheckedPolicy final : public ForwardingPolicy {
 public:
  CheckedPolicy(std::unique_ptr<ReportingPolicy> policy, int& checks)
      : ForwardingPolicy(std::move(policy)), checks_(checks) {}
  absl::Status CheckInvariants() const override {
    ++checks_;
    return ForwardingPolicy::CheckInvariants();
  }

 private:
  int& checks_;
};

TEST(MechanismsTest, APolicyIsCheckedOnce) {
  int checks = 0;
  const auto run = [&checks](Machine& machine) {
    checks = 0;
    const auto make = [&checks] {
      return std::make_unique<CheckedPolicy>(
          MakePolicy({.name = "linux"}, PolicyContext(Order(0))).value(),
          checks);
    };
    ASSERT_TRUE(machine
                    .StartMechanism(std::make_unique<ReportingMechanism>(
                        "reporting:linux", make))
                    .ok());
    EXPECT_TRUE(machine.CheckInvariants().ok());
    EXPECT_EQ(checks, 1);
  };
  VirtualTime time(1);
  run(*ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time)
           .value());
  run(*Guest::Create(
           {.memory = MemoryMap::Pc(256 * kMiB), .virtual_time = &time})
           .value());
}

TEST(MechanismsTest, AParameterInTheTextWinsOverTheContexts) {
  const MechanismContext context = {
      .policy = PolicyContext(Order(0)),
      .defaults = {{"order", "4"}, {"capacity", "8"}}};
  const auto policy =
      MakePolicy(kMechanisms, Spec("reporting:v12:order=5"), context).value();
  EXPECT_EQ(policy->min_order(), Order(5));
  EXPECT_EQ(policy->capacity(), 8U);
}

TEST(MechanismsTest, EveryParameterIsTakenFromTheText) {
  const auto policy =
      MakePolicy(
          kMechanisms,
          Spec("reporting:adaptive:order=9:floor=3:delay=0.5:capacity=7"),
          kContext)
          .value();
  EXPECT_THAT(policy->parameters(),
              testing::IsSupersetOf(
                  {testing::Pair("order", 9U), testing::Pair("capacity", 7U)}));
  EXPECT_EQ(policy->delay(), std::chrono::milliseconds(500));
}

TEST(MechanismsTest, RefusesWrongPoliciesAndParameters) {
  constexpr std::array<std::string_view, 2> kNames = {"off", "reporting"};
  const auto error_of = [&](const std::string& text) {
    return std::string(
        CheckMechanisms({kMechanisms, {Spec(text)}}, kNames, kContext)
            .message());
  };
  EXPECT_EQ(error_of("off"), "");
  EXPECT_EQ(error_of("reporting:v12:order=5"), "");
  EXPECT_EQ(error_of("limit"),
            "--mechanisms=limit: must be one of off, reporting");
  EXPECT_EQ(error_of("reporting:v13"),
            "--mechanisms=reporting:v13: the policy must be one of v12, "
            "v12-hotplug, linux, adaptive");
  EXPECT_EQ(error_of("reporting:v12:order=11"),
            "--mechanisms=reporting:v12:order=11: order must be 0 to 10");
  EXPECT_EQ(error_of("reporting:v12:capacity=x"),
            "--mechanisms=reporting:v12:capacity=x: capacity must be a whole "
            "number, 1 to 1024");
  EXPECT_EQ(error_of("reporting:linux:delay=-1"),
            "--mechanisms=reporting:linux:delay=-1: delay must be 0 to 3600 "
            "seconds");
  EXPECT_EQ(error_of("reporting:v12:speed=1"),
            "--mechanisms=reporting:v12:speed=1: speed must be one of "
            "order, threshold, capacity");
}

// They are written without "reporting:", and so are the choices.
TEST(MechanismsTest, RefusesWrongPoliciesByTheirOwnOption) {
  const auto error_of = [&](const std::string& text) {
    constexpr auto kPolicies = MechanismOption::kPolicies;
    return std::string(
        CheckMechanisms(
            {kPolicies, {ParseMechanism(kPolicies, text).value()}},
            std::array{kMechanismOff, kMechanismReporting, kMechanismReal},
            kContext)
            .message());
  };
  EXPECT_EQ(error_of("real"), "");
  EXPECT_EQ(error_of("v12:order=5"), "");
  for (const std::string text : {"limit", "v13", "reporting"}) {
    EXPECT_EQ(error_of(text), "--policies=" + text +
                                  ": must be one of off, v12, v12-hotplug, "
                                  "linux, adaptive, real");
  }
  EXPECT_EQ(error_of("v12:order=11"),
            "--policies=v12:order=11: order must be 0 to 10");
}

TEST(MechanismsTest, RefusesADefaultThatNoPolicyHas) {
  const MechanismContext context = {.policy = PolicyContext(Order(0)),
                                    .defaults = {{"threshold", "2"}}};
  const auto error_of = [&](const std::string& text) {
    return std::string(
        CheckMechanisms({kMechanisms, {Spec("off"), Spec(text)}},
                        std::array{kMechanismOff, kMechanismReporting}, context)
            .message());
  };
  EXPECT_EQ(error_of("reporting:v12"), "");
  // One policy that has it is enough.
  EXPECT_EQ(CheckMechanisms(
                {kMechanisms, {Spec("reporting:v12"), Spec("reporting:linux")}},
                std::array{kMechanismOff, kMechanismReporting}, context),
            absl::OkStatus());
  EXPECT_EQ(error_of("reporting:linux"),
            "--threshold=2: must be given with a policy that has it: v12, "
            "v12-hotplug");
}

TEST(MechanismsTest, SuggestsThePolicyThatWasMeant) {
  constexpr auto kPolicies = MechanismOption::kPolicies;
  EXPECT_EQ(
      CheckMechanisms(
          {kPolicies, {ParseMechanism(kPolicies, "linus:order=5").value()}},
          std::array{kMechanismOff, kMechanismReporting}, kContext)
          .message(),
      "--policies=linus:order=5: must be one of off, v12, v12-hotplug, "
      "linux, adaptive; did you mean 'linux'?");
}

// Reporting that another has begun, or begins later, is not its to stop.
TEST(MechanismsTest, StopsOnlyWhatItHasStarted) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time).value();
  {
    const auto first = Make("reporting:linux");
    ASSERT_EQ(first->Start(*machine), absl::OkStatus());
    {
      const auto second = Make("reporting:v12");
      EXPECT_TRUE(absl::IsFailedPrecondition(second->Start(*machine)));
      EXPECT_TRUE(second->AtRest());
    }
    EXPECT_NE(machine->reporter(), nullptr);
    first->Stop();
    EXPECT_EQ(machine->reporter(), nullptr);
    const auto third = Make("reporting:v12");
    ASSERT_EQ(third->Start(*machine), absl::OkStatus());
    first->Stop();
    EXPECT_NE(machine->reporter(), nullptr);
  }
  EXPECT_EQ(machine->reporter(), nullptr) << "a destructor stops it";
}

TEST(MechanismsDeathTest, IsStartedOnce) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time).value();
  const auto mechanism = Make("reporting:linux");
  ASSERT_EQ(mechanism->Start(*machine), absl::OkStatus());
  EXPECT_DEATH(mechanism->Start(*machine).IgnoreError(), "is started already");
}

TEST(MechanismsTest, NoMachineRunsLimitOrReal) {
  EXPECT_EQ(
      MakeMechanism(kMechanisms, Spec("limit"), kContext).status().message(),
      "--mechanisms=limit: must be off or reporting: no machine runs the "
      "others");
}

TEST(MechanismsTest, APolicyThatCannotBeMadeIsStartsError) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time).value();
  const absl::Status status = machine->StartMechanism(
      std::make_unique<ReportingMechanism>("reporting:broken", [] {
        return absl::StatusOr<std::unique_ptr<ReportingPolicy>>(
            absl::InvalidArgumentError("broken"));
      }));
  EXPECT_EQ(status, absl::InvalidArgumentError("broken"));
  EXPECT_EQ(machine->mechanism(), nullptr);
}

}  // namespace
}  // namespace guestmm::mechanisms_test
