#include "guestmm/machine/model/model_machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/policies.h"
#include "src/reporting/forwarding_policy.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::model_machine_test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Allocates and touches 2 MiB a step, then frees one a step.
class UpAndDown final : public Workload {
 public:
  UpAndDown(const Clock& clock, int blocks) : clock_(clock), blocks_(blocks) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    steps.push_back(clock_.Now());
    if (growing_) {
      held_.push_back(vcpu.Allocate(kPageblockOrder).value());
      vcpu.Touch(held_.back(), kPageblockOrder, /*stamp=*/1);
      growing_ = static_cast<int>(held_.size()) < blocks_;
      return milliseconds(10);
    }
    vcpu.Free(held_.back(), kPageblockOrder);
    held_.pop_back();
    if (held_.empty()) return std::nullopt;
    return milliseconds(10);
  }
  uint64_t work() const override { return steps.size(); }

  std::vector<Nanoseconds> steps;

 private:
  const Clock& clock_;
  const int blocks_;
  bool growing_ = true;
  std::vector<Pfn> held_;
};

std::unique_ptr<ModelMachine> Make(VirtualTime& time) {
  return ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB)}, time)
      .value();
}

std::unique_ptr<Mechanism> Linux(std::string_view parameters = "") {
  constexpr auto kOption = MechanismOption::kMechanisms;
  const std::string text = "reporting:linux" + std::string(parameters);
  return MakeMechanism(kOption, ParseMechanism(kOption, text).value(),
                       {PolicyContext(Order(0))})
      .value();
}

// What one machine does does not depend on another that shares its clock.
struct Outcome {
  std::vector<Nanoseconds> steps;
  FootprintIntegral resident;
  uint64_t discarded;
  bool operator==(const Outcome&) const = default;
};

// What a burst leaves on a vCPU's lists goes back over time with 6.12's lists
// only.
TEST(ModelMachineTest, TheListsOf6_12DecayWhileItIsIdle) {
  for (const KernelVersion kernel :
       {KernelVersion::kV5_3, KernelVersion::kV6_1, KernelVersion::kV6_12}) {
    VirtualTime time(1);
    const auto machine = ModelMachine::Create(
        {.memory = MemoryMap::Pc(256 * kMiB), .kernel = kernel}, time);
    Vcpu& vcpu = (*machine)->vcpu(0);
    std::vector<Pfn> pages;
    for (int i = 0; i < 8192; ++i) {
      pages.push_back(vcpu.Allocate(Order(0)).value());
    }
    for (const Pfn pfn : pages) vcpu.Free(pfn, Order(0));
    const PageCount after = (*machine)->allocator().Counts().cached;
    (*machine)->RunFor(std::chrono::minutes(1));
    const PageCount rested = (*machine)->allocator().Counts().cached;
    if (kernel == KernelVersion::kV6_12) {
      EXPECT_GT(after, rested + PageCount(1000));
    } else {
      EXPECT_EQ(after, rested);
    }
    EXPECT_EQ((*machine)->CheckInvariants(), absl::OkStatus());
  }
}

TEST(ModelMachineTest, TwoOnOneClockRunSideBySide) {
  VirtualTime time(1);
  const auto first = Make(time);
  const auto second = Make(time);
  ASSERT_TRUE(first->StartMechanism(Linux()).ok());
  ASSERT_TRUE(second->StartMechanism(std::make_unique<OffMechanism>()).ok());
  UpAndDown big(time, 12);
  UpAndDown small(time, 4);
  first->StartWorkloads(std::array<Workload*, 1>{&big});
  second->StartWorkloads(std::array<Workload*, 1>{&small});

  // Either machine's RunUntil runs both.
  first->RunUntil(milliseconds(55));
  EXPECT_GT(big.work(), 4U);
  EXPECT_EQ(small.work(), 5U);
  EXPECT_EQ(second->Now(), milliseconds(55));
  EXPECT_EQ(second->ledger()->resident_pages().bytes(), 8 * kMiB);

  second->RunUntil(seconds(20));
  EXPECT_EQ(big.work(), 24U);
  EXPECT_EQ(small.work(), 8U);
  // Only the one that reports gave anything back.
  EXPECT_EQ(first->ledger()->resident_pages(), PageCount(0));
  EXPECT_EQ(first->ledger()->counters().discarded_bytes, 24 * kMiB);
  EXPECT_EQ(second->ledger()->resident_pages().bytes(), 8 * kMiB);
  EXPECT_EQ(second->ledger()->counters().discarded_bytes, 0U);
  EXPECT_TRUE(first->CheckInvariants().ok());
  EXPECT_TRUE(second->CheckInvariants().ok());
  EXPECT_TRUE(first->status().ok());
  EXPECT_TRUE(second->status().ok());
}

Outcome RunOne(bool with_another) {
  VirtualTime time(1);
  const auto machine = Make(time);
  std::unique_ptr<ModelMachine> another;
  UpAndDown others(time, 7);
  if (with_another) {
    another = Make(time);
    EXPECT_TRUE(another->StartMechanism(Linux()).ok());
    another->StartWorkloads(std::array<Workload*, 1>{&others});
  }
  EXPECT_TRUE(machine->StartMechanism(Linux()).ok());
  UpAndDown workload(time, 12);
  machine->StartWorkloads(std::array<Workload*, 1>{&workload});
  machine->RunUntil(seconds(20));
  return {.steps = workload.steps,
          .resident = machine->footprint().resident,
          .discarded = machine->ledger()->counters().discarded_bytes};
}

TEST(ModelMachineTest, AnotherOnItsClockChangesNothing) {
  EXPECT_EQ(RunOne(/*with_another=*/true), RunOne(/*with_another=*/false));
}

TEST(ModelMachineTest, TheFootprintBeginsWithTheMachine) {
  VirtualTime time(1);
  time.RunFor(seconds(60));
  const auto machine = Make(time);
  const Pfn pfn = machine->vcpu(0).Allocate(kPageblockOrder).value();
  machine->vcpu(0).Touch(pfn, kPageblockOrder, /*stamp=*/1);
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<OffMechanism>()).ok());
  machine->RunUntil(seconds(62));
  EXPECT_EQ(machine->footprint().resident.page_microseconds(), 512.0 * 2e6);
  EXPECT_EQ(machine->footprint().allocated.page_microseconds(), 512.0 * 2e6);
}

// Does nothing, in no time.
class Spinning final : public Workload {
 public:
  std::optional<Nanoseconds> Step(Vcpu&) override {
    // Ends if the clock does not go on.
    return ++steps_ < 1000 ? std::optional(Nanoseconds(0)) : std::nullopt;
  }
  uint64_t work() const override { return steps_; }

 private:
  uint64_t steps_ = 0;
};

TEST(ModelMachineTest, AStepTakesANanosecondAtLeast) {
  VirtualTime time(1);
  const auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<OffMechanism>()).ok());
  Spinning workload;
  machine->StartWorkloads(std::array<Workload*, 1>{&workload});
  machine->RunUntil(Nanoseconds(99));
  EXPECT_EQ(workload.work(), 100U);  // at 0 ns and each after it
}

// A report of what the host had already is no entry.
TEST(ModelMachineTest, ListsTheDiscardsThatGaveSomethingBack) {
  VirtualTime time(1);
  const auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(Linux()).ok());
  machine->RunUntil(seconds(20));
  EXPECT_GT(machine->counters().discard_calls, 0U);
  EXPECT_TRUE(machine->discards().empty());

  Vcpu& vcpu = machine->vcpu(0);
  const Pfn touched = vcpu.Allocate(kPageblockOrder).value();
  vcpu.Touch(touched, kPageblockOrder, /*stamp=*/1);
  vcpu.Free(touched, kPageblockOrder);
  machine->RunUntil(seconds(40));
  ASSERT_EQ(machine->discards().size(), 1U);
  EXPECT_EQ(machine->discards().back().bytes, 2 * kMiB);

  const uint64_t calls = machine->counters().discard_calls;
  vcpu.Free(vcpu.Allocate(kPageblockOrder).value(), kPageblockOrder);
  machine->RunUntil(seconds(60));
  EXPECT_GT(machine->counters().discard_calls, calls);
  EXPECT_EQ(machine->discards().size(), 1U);
}

// Memory is allocated for one pause, and resident until it is discarded.
TEST(ModelMachineTest, TheFootprintChangesWithEachStepAndDiscard) {
  VirtualTime time(1);
  const auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(Linux()).ok());
  UpAndDown workload(time, 1);
  machine->StartWorkloads(std::array<Workload*, 1>{&workload});
  machine->RunUntil(seconds(20));
  ASSERT_EQ(workload.steps.size(), 2U);
  ASSERT_EQ(machine->discards().size(), 1U);
  const auto page_microseconds = [](Nanoseconds end) {
    return 512 * static_cast<double>(end.count()) / 1000;
  };
  // It counts whole microseconds.
  EXPECT_NEAR(machine->footprint().allocated.page_microseconds(),
              page_microseconds(workload.steps[1]), 512 * 2);
  EXPECT_NEAR(machine->footprint().resident.page_microseconds(),
              page_microseconds(machine->discards().front().when), 512 * 2);
}

// Remembers the vCPU that stepped it.
class WhoSteps final : public Workload {
 public:
  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    vcpu_ = vcpu.id();
    return std::nullopt;
  }
  uint64_t work() const override { return 0; }
  int vcpu() const { return vcpu_; }

 private:
  int vcpu_ = -1;
};

TEST(ModelMachineTest, AVcpuWithoutAWorkloadLeavesItsPlaceEmpty) {
  VirtualTime time(1);
  const auto machine =
      ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB), .vcpus = 2},
                           time)
          .value();
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<OffMechanism>()).ok());
  WhoSteps workload;
  machine->StartWorkloads(std::array<Workload*, 2>{nullptr, &workload});
  machine->RunUntil(seconds(1));
  EXPECT_EQ(workload.vcpu(), 1);
}

// A policy that cannot be enabled the first time.
class EnabledLater final : public ForwardingPolicy {
 public:
  explicit EnabledLater(bool& refuse)
      : ForwardingPolicy(
            MakePolicy({.name = "linux"}, PolicyContext(Order(0))).value()),
        refuse_(refuse) {}
  absl::Status Enable(const ReportingEnvironment& environment) override {
    if (std::exchange(refuse_, false)) return absl::InternalError("not now");
    return ForwardingPolicy::Enable(environment);
  }

 private:
  bool& refuse_;
};

TEST(ModelMachineTest, AMechanismThatCouldNotStartMayStartLater) {
  VirtualTime time(1);
  const auto machine = Make(time);
  bool refuse = true;
  ReportingMechanism mechanism(
      "later", [&refuse] { return std::make_unique<EnabledLater>(refuse); });
  EXPECT_EQ(mechanism.Start(*machine), absl::InternalError("not now"));
  EXPECT_EQ(machine->reporter(), nullptr);
  EXPECT_EQ(mechanism.Start(*machine), absl::OkStatus());
  EXPECT_NE(machine->reporter(), nullptr);
}

// A mechanism that has found an error in itself.
class Broken final : public Mechanism {
 public:
  std::string_view name() const override { return "broken"; }
  std::string text() const override { return "broken"; }
  absl::Status Start(Machine&) override { return absl::OkStatus(); }
  void Stop() override {}
  bool AtRest() const override { return true; }
  void SetTarget(uint64_t) override {}
  MechanismCounters counters() const override { return {}; }
  absl::Status CheckInvariants() const override {
    return absl::InternalError("broken");
  }
};

TEST(ModelMachineTest, ChecksItsMechanism) {
  VirtualTime time(1);
  const auto machine = Make(time);
  EXPECT_EQ(machine->CheckInvariants(), absl::OkStatus());
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<Broken>()).ok());
  EXPECT_EQ(machine->CheckInvariants(), absl::InternalError("broken"));
}

// Allocates all memory, frees it, pauses until a report of it is
// under way, and begins again. Once blocked it goes on where it was.
class AllOrNothing final : public Workload {
 public:
  explicit AllOrNothing(const FrameAllocator& allocator)
      : allocator_(allocator) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    if (held_.empty() && least != kNever &&
        allocator_.Counts().isolated == PageCount(0)) {
      return microseconds(2);
    }
    while (const std::optional<Pfn> pfn = vcpu.Allocate(kPageblockOrder)) {
      held_.push_back(*pfn);
    }
    if (vcpu.blocked()) {
      // A request that does not wait fails, and the vCPU stays blocked.
      Gfp gfp = kGfpUser;
      gfp.may_reclaim = false;
      EXPECT_FALSE(vcpu.Allocate(kPageblockOrder, gfp));
      EXPECT_TRUE(vcpu.blocked());
      ++blocked;
      return std::nullopt;  // ignored
    }
    most = std::max(most, held_.size());
    least = std::min(least, held_.size());
    for (const Pfn pfn : held_) vcpu.Free(pfn, kPageblockOrder);
    held_.clear();
    return microseconds(2);
  }
  uint64_t work() const override { return 0; }

  static constexpr size_t kNever = ~size_t{0};
  // Blocks held at the end of a round.
  size_t most = 0;
  size_t least = kNever;
  int blocked = 0;

 private:
  const FrameAllocator& allocator_;
  std::vector<Pfn> held_;
};

struct Waits {
  size_t most;
  size_t least;
  int blocked;
  uint64_t stalled;
  VmStat vmstat;
};

Waits RunAllOrNothing(bool wait) {
  VirtualTime time(1);
  auto machine = ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB),
                                       .wait_for_isolated = wait},
                                      time)
                     .value();
  EXPECT_TRUE(machine->StartMechanism(Linux(":delay=0.01")).ok());
  AllOrNothing workload(machine->allocator());
  machine->StartWorkloads(std::array<Workload*, 1>{&workload});
  machine->RunUntil(milliseconds(100));
  EXPECT_TRUE(machine->CheckInvariants().ok());
  EXPECT_TRUE(machine->status().ok());
  return {.most = workload.most,
          .least = workload.least,
          .blocked = workload.blocked,
          .stalled = machine->spent(CostKind::kStall),
          .vmstat = machine->allocator().vmstat()};
}

// With memory in flight to the host, a request blocks its vCPU until that
// returns; the time is counted as a stall, and no round gets less memory.
TEST(ModelMachineTest, ARequestThatMustWaitBlocksItsVcpu) {
  const Waits waits = RunAllOrNothing(/*wait=*/true);
  EXPECT_GT(waits.blocked, 0);
  EXPECT_EQ(waits.least, waits.most);
  const auto blocked = static_cast<uint64_t>(waits.blocked);
  EXPECT_EQ(waits.vmstat.alloc_waited_isolated, blocked);
  // Only the requests that do not wait failed.
  EXPECT_EQ(waits.vmstat.alloc_failed_isolated, blocked);
  EXPECT_GT(waits.stalled, 0U);
}

TEST(ModelMachineTest, WithoutWaitingTheRequestFails) {
  const Waits fails = RunAllOrNothing(/*wait=*/false);
  EXPECT_EQ(fails.blocked, 0);
  EXPECT_LT(fails.least, fails.most);
  EXPECT_GT(fails.vmstat.alloc_failed_isolated, 0U);
  EXPECT_EQ(fails.vmstat.alloc_waited_isolated, 0U);
  EXPECT_EQ(fails.stalled, 0U);
}

// A vCPU that is blocked when the machine ends is not stepped again.
TEST(ModelMachineTest, EndsWithAVcpuBlocked) {
  VirtualTime time(1);
  auto machine = ModelMachine::Create({.memory = MemoryMap::Pc(256 * kMiB),
                                       .wait_for_isolated = true},
                                      time)
                     .value();
  ASSERT_TRUE(machine->StartMechanism(Linux(":delay=0.01")).ok());
  AllOrNothing workload(machine->allocator());
  machine->StartWorkloads(std::array<Workload*, 1>{&workload});
  ASSERT_TRUE(
      time.WaitUntil([&] { return workload.blocked > 0; }, seconds(60)));
  const int blocked = workload.blocked;
  machine.reset();
  time.RunUntilIdle();
  EXPECT_EQ(workload.blocked, blocked);
}

// What the boot cost is not the workloads'.
TEST(ModelMachineTest, TheBootsCostsAreForgotten) {
  VirtualTime time(1);
  const auto machine = Make(time);
  machine->vcpu(0).Allocate(kPageblockOrder);
  EXPECT_GT(machine->spent(CostKind::kBase), 0U);
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<OffMechanism>()).ok());
  EXPECT_EQ(machine->spent(CostKind::kBase), 0U);
}

TEST(ModelMachineTest, ReportsOnlyOnce) {
  VirtualTime time(1);
  const auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(Linux()).ok());
  EXPECT_EQ(machine->StartReporting(
                MakePolicy({.name = "v12"}, PolicyContext(Order(0))).value()),
            absl::FailedPreconditionError("the guest is already reporting"));
}

TEST(ModelMachineTest, EndsWithAReportInFlight) {
  VirtualTime time(1);
  auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(Linux()).ok());
  ASSERT_TRUE(time.WaitUntil(
      [&] { return machine->allocator().Counts().isolated > PageCount(0); },
      seconds(10)));
  machine.reset();
  time.RunUntilIdle();
}

TEST(ModelMachineTest, IsolatedPagesThatNoReportHasAreAViolation) {
  VirtualTime time(1);
  const auto machine = Make(time);
  PageAllocator& allocator = machine->allocator();
  IsolatedBlock block = Isolate(
      allocator, allocator.zones().front()->span().end - kMaxOrder.pages());
  EXPECT_EQ(machine->CheckInvariants(),
            absl::InternalError("S2: 1024 pages are isolated, 0 in flight"));
  Return(std::move(block));
  EXPECT_EQ(machine->CheckInvariants(), absl::OkStatus());
}

TEST(ModelMachineDeathTest, RefusesASecondMechanism) {
  VirtualTime time(1);
  const auto machine = Make(time);
  ASSERT_TRUE(machine->StartMechanism(std::make_unique<OffMechanism>()).ok());
  EXPECT_DEATH((void)machine->StartMechanism(std::make_unique<OffMechanism>()),
               "the machine already runs mechanism off");
}

TEST(ModelMachineTest, CreateReportsTheAllocatorsError) {
  VirtualTime time(1);
  EXPECT_FALSE(ModelMachine::Create({.memory = {}}, time).ok());
}

}  // namespace
}  // namespace guestmm::model_machine_test
