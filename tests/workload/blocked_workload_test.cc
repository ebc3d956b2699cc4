// What a workload does when its vCPU is blocked (Vcpu::blocked): the step ends
// without another request, keeps what it holds, and is repeated as if it had
// not been begun.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/workload/build_workload.h"
#include "guestmm/workload/burst_workload.h"
#include "guestmm/workload/churn_workload.h"
#include "guestmm/workload/fragmenter_workload.h"
#include "guestmm/workload/idle_workload.h"
#include "guestmm/workload/interleaved_workload.h"
#include "guestmm/workload/page_fault1_workload.h"
#include "guestmm/workload/recipes.h"
#include "guestmm/workload/sandbox_workload.h"
#include "tests/testing/counting_backing.h"

namespace guestmm::blocked_workload_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The allocator of a guest; every few requests one has to wait.
class WaitingAllocator final : public FrameAllocator {
 public:
  // The first request to wait is number `first`, and then every `period`th.
  WaitingAllocator(FrameAllocator& next, uint64_t first, uint64_t period)
      : next_(next), left_(first), period_(period) {}

  // Requests, and frees, since one had to wait; 0 before.
  int requests_since() const { return requests_since_; }
  int frees_since() const { return frees_since_; }
  int waited() const { return waited_; }
  void EndStep() {
    waiting_ = false;
    requests_since_ = frees_since_ = 0;
  }

  std::function<bool()> WhenToRetry(int, Order, Gfp) override {
    if (!waiting_) return nullptr;
    return [] { return true; };
  }
  void Free(int cpu, Pfn pfn, Order order) override {
    if (waiting_) ++frees_since_;
    next_.Free(cpu, pfn, order);
  }
  bool AllocateAt(Pfn pfn, Order order, MigrateType type) override {
    return next_.AllocateAt(pfn, order, type);
  }
  void DrainPerCpuPages() override { next_.DrainPerCpuPages(); }
  void AddReclaimer(Reclaimer& reclaimer) override {
    next_.AddReclaimer(reclaimer);
  }
  void RemoveReclaimer(Reclaimer& reclaimer) override {
    next_.RemoveReclaimer(reclaimer);
  }
  int cpus() const override { return next_.cpus(); }
  Order max_order() const override { return next_.max_order(); }
  Pfn hotplug_end() const override { return next_.hotplug_end(); }
  PageCounts Counts() const override { return next_.Counts(); }
  PageCount FreePagesAboveLow() const override {
    return next_.FreePagesAboveLow();
  }
  bool HasFreeAboveLow(PageCount pages, ZoneType highest) const override {
    return next_.HasFreeAboveLow(pages, highest);
  }
  void ForEachFreeBlock(
      Order min_order, FreeBlocksOf zones,
      absl::FunctionRef<void(Pfn, Order)> visit) const override {
    next_.ForEachFreeBlock(min_order, zones, visit);
  }
  VmStat vmstat() const override { return next_.vmstat(); }
  absl::Status CheckInvariants() const override {
    return next_.CheckInvariants();
  }

 private:
  Pfn Take(int cpu, Order order, Gfp gfp) override {
    if (waiting_) {
      ++requests_since_;
    } else if (--left_ == 0) {
      left_ = period_;
      waiting_ = true;
      ++waited_;
      return kNoPfn;
    }
    return next_.Allocate(cpu, order, gfp).value_or(kNoPfn);
  }

  FrameAllocator& next_;
  uint64_t left_;
  const uint64_t period_;
  bool waiting_ = false;
  int requests_since_ = 0;
  int frees_since_ = 0;
  int waited_ = 0;
};

// A guest of 64 MiB whose vCPU is blocked every `period` requests.
struct WaitingGuest {
  explicit WaitingGuest(uint64_t period) : WaitingGuest(period, period) {}
  WaitingGuest(uint64_t first, uint64_t period)
      : allocator(guest.guest->allocator(), first, period),
        vcpu(0, allocator, *guest.backing) {}

  // Steps as a machine does. Returns how long until the next step; nullopt
  // after a step that was blocked.
  std::optional<Nanoseconds> Step(Workload& workload) {
    const std::optional<Nanoseconds> quiet = workload.Step(vcpu);
    const bool was_blocked = vcpu.TakeBlockedOn() != nullptr;
    allocator.EndStep();
    if (was_blocked) return std::nullopt;
    if (!quiet) ended = true;
    return quiet.value_or(Nanoseconds(0));
  }

  CountingGuest guest{64 * kMiB};
  WaitingAllocator allocator;
  Vcpu vcpu;
  // The workload has ended.
  bool ended = false;
};

// Every workload --------------------------------------------------------------

struct WorkloadMaker {
  std::string name;
  // Before it idles: an idle guest frees what it has taken, blocked or not.
  int steps;
  std::function<std::unique_ptr<Workload>()> make;
};

void PrintTo(const WorkloadMaker& maker, std::ostream* os) {
  *os << maker.name;
}

constexpr uint64_t kBytes = 32 * kMiB;

std::vector<WorkloadMaker> Makers() {
  return {
      {"Burst", 3000,
       [] { return std::make_unique<BurstWorkload>(kBytes, 1); }},
      {"Churn", 3000,
       [] {
         return std::make_unique<ChurnWorkload>(ChurnOptions{.bytes = kBytes},
                                                1);
       }},
      {"Fragmenter", 40,
       [] {
         return std::make_unique<FragmenterWorkload>(
             FragmenterOptions{.bytes = kBytes, .kept_one_in = 8}, 1);
       }},
      {"PageFault1", 3000,
       [] {
         return std::make_unique<PageFault1Workload>(
             PageFault1Options{.bytes = kBytes});
       }},
      {"Build", 3000,
       [] {
         return std::make_unique<BuildWorkload>(
             BuildOptions{.phases = 4,
                          .processes = 5,
                          .min_process_bytes = 4 * kMiB,
                          .max_process_bytes = 16 * kMiB,
                          .kernel_share = 0.1,
                          .file_share = 0.1},
             1);
       }},
      {"Sandbox", 400,
       [] {
         return std::make_unique<SandboxWorkload>(
             SandboxOptions{
                 .bytes = kBytes, .files_of_burst = 0.5, .max_file_share = 0.4},
             1);
       }},
  };
}

class EveryBlockedWorkloadTest : public testing::TestWithParam<WorkloadMaker> {
};

// At whichever of its requests: the period has no common divisor with the
// numbers of blocks that a step takes.
TEST_P(EveryBlockedWorkloadTest, AsksForNothingMoreAndGivesUpNothing) {
  for (const uint64_t period : {3, 17, 101}) {
    WaitingGuest guest(period);
    const auto workload = GetParam().make();
    for (int step = 0; step < GetParam().steps; ++step) {
      if (!workload->Step(guest.vcpu)) break;
      ASSERT_EQ(guest.allocator.requests_since(), 0) << "step " << step;
      ASSERT_EQ(guest.allocator.frees_since(), 0) << "step " << step;
      guest.vcpu.TakeBlockedOn();
      guest.allocator.EndStep();
    }
    EXPECT_GT(guest.allocator.waited(), 5);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryBlockedWorkloadTest,
                         testing::ValuesIn(Makers()),
                         [](const auto& maker) { return maker.param.name; });

// An idle guest frees at the end of each step what it has taken.
TEST(BlockedWorkloadTest, IdleAsksForNothingMore) {
  for (const uint64_t first : {1, 5, 16, 17, 18}) {
    WaitingGuest guest(first, /*period=*/1000);
    IdleWorkload idle(/*seed=*/1);
    idle.Step(guest.vcpu);
    EXPECT_EQ(guest.allocator.waited(), 1);
    EXPECT_EQ(guest.allocator.requests_since(), 0) << first;
    EXPECT_EQ(guest.guest.backing->held(), PageCount(0));
  }
}

// Each by itself -----------------------------------------------------------

TEST(BlockedWorkloadTest, ABurstGrowsToItsSize) {
  WaitingGuest guest(/*period=*/100);
  BurstWorkload burst(20 * kMiB, /*seed=*/1);
  while (!guest.ended) guest.Step(burst);
  EXPECT_GT(guest.allocator.waited(), 5);
  EXPECT_GE(burst.peak_bytes(), 20 * kMiB);
}

TEST(BlockedWorkloadTest, AFragmenterFillsItsMemory) {
  WaitingGuest guest(/*period=*/100);
  FragmenterWorkload fragmenter({.bytes = 20 * kMiB}, /*seed=*/1);
  uint64_t most = 0;
  while (fragmenter.busy()) {
    guest.Step(fragmenter);
    most = std::max(most, fragmenter.allocated_bytes());
  }
  EXPECT_GT(guest.allocator.waited(), 5);
  EXPECT_GE(most, 20 * kMiB);
}

TEST(BlockedWorkloadTest, AProcessOfABuildGrowsToItsSize) {
  WaitingGuest guest(/*period=*/100);
  BuildWorkload build({.phases = 1,
                       .processes = 1,
                       .min_process_bytes = 8 * kMiB,
                       .max_process_bytes = 8 * kMiB,
                       .huge_share = 0,
                       .kernel_share = 0,
                       .file_share = 0},
                      /*seed=*/1);
  uint64_t most = 0;
  while (!guest.ended) {
    guest.Step(build);
    most = std::max(most, build.process_bytes());
  }
  EXPECT_GT(guest.allocator.waited(), 5);
  EXPECT_EQ(most, 8 * kMiB);
}

TEST(BlockedWorkloadTest, APageFault1MapsAllOfItsMemory) {
  WaitingGuest guest(/*period=*/100);
  PageFault1Workload page_fault1({.bytes = 8 * kMiB});
  for (uint64_t held = 0; page_fault1.allocated_bytes() >= held;) {
    held = page_fault1.allocated_bytes();
    guest.Step(page_fault1);
    if (page_fault1.allocated_bytes() < held) {
      EXPECT_EQ(held, 8 * kMiB);
    }
  }
  EXPECT_GT(guest.allocator.waited(), 5);
}

// At whichever request: of 256 pages, a page of the kernel for each 128 of
// them, and one of a file for each 32.
TEST(BlockedWorkloadTest, ABuildLeavesAllOfItsSharesBehind) {
  for (uint64_t first = 1; first <= 256 + 2 + 8; ++first) {
    WaitingGuest guest(first, /*period=*/1000);
    BuildWorkload build({.phases = 1,
                         .processes = 1,
                         .min_process_bytes = kMiB,
                         .max_process_bytes = kMiB,
                         .huge_share = 0,
                         .kernel_share = 1.0 / 128,
                         .file_share = 1.0 / 32},
                        /*seed=*/1);
    while (!guest.ended) guest.Step(build);
    ASSERT_EQ(guest.allocator.waited(), 1) << first;
    ASSERT_EQ(build.kernel_bytes(), 2 * kPageSize) << first;
    ASSERT_EQ(build.file_bytes(), 8 * kPageSize) << first;
    ASSERT_EQ(build.work(), 256u + 2 + 8) << first;
  }
}

// A process begins with a huge page, if it has some.
TEST(BlockedWorkloadTest, ABuildThatWaitsForAHugePageTakesNoSmallOnes) {
  WaitingGuest guest(/*first=*/1, /*period=*/1000);
  BuildWorkload build({.phases = 1,
                       .processes = 1,
                       .min_process_bytes = 8 * kMiB,
                       .max_process_bytes = 8 * kMiB,
                       .huge_share = 1},
                      /*seed=*/1);
  build.Step(guest.vcpu);
  EXPECT_EQ(guest.allocator.waited(), 1);
  EXPECT_EQ(guest.allocator.requests_since(), 0);
  EXPECT_EQ(build.process_bytes(), 0u);
}

// Blocked at its first request.
class BlockedOnce final : public Workload {
 public:
  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    ++steps;
    vcpu.Allocate(Order(0));
    if (vcpu.blocked()) return std::nullopt;  // ignored
    return seconds(1);
  }
  uint64_t work() const override { return 0; }
  int steps = 0;
};

TEST(BlockedWorkloadTest, OneOfSeveralIsSteppedAgain) {
  WaitingGuest guest(/*first=*/1, /*period=*/1000);
  auto made = std::make_unique<BlockedOnce>();
  const BlockedOnce& member = *made;
  std::vector<std::unique_ptr<Workload>> members;
  members.push_back(std::move(made));
  InterleavedWorkload interleaved(std::move(members));
  EXPECT_EQ(guest.Step(interleaved), std::nullopt);
  EXPECT_FALSE(guest.ended);
  EXPECT_EQ(guest.Step(interleaved), seconds(1));
  EXPECT_EQ(member.steps, 2);
}

constexpr SandboxOptions kSandbox = {.bytes = 40 * kMiB,
                                     .burst_share = 0.6,
                                     .burst_spread = 0,
                                     .grow_time = seconds(2),
                                     .min_churn_time = seconds(1),
                                     .max_churn_time = seconds(1),
                                     .min_idle_time = seconds(3),
                                     .max_idle_time = seconds(3),
                                     .steady_share = 0.2,
                                     .files_of_burst = 0.125,
                                     .max_file_share = 0.5};

// A sandbox, blocked at every 500th request, from its start to its second
// burst.
struct SandboxRun {
  uint64_t steady_bytes = 0;
  Nanoseconds grow_pause{0};
  // The most that it held at its peak.
  uint64_t peak_bytes = 0;
  // Without the steps that were blocked.
  Nanoseconds churned{0};
  Nanoseconds idled{0};
};

SandboxRun RunSandbox() {
  WaitingGuest guest(/*period=*/500);
  SandboxWorkload sandbox(kSandbox, /*seed=*/1);
  SandboxRun run;
  while (!sandbox.bursting()) guest.Step(sandbox);
  run.steady_bytes = sandbox.steady_bytes();
  while (sandbox.bursting()) {
    const std::optional<Nanoseconds> quiet = guest.Step(sandbox);
    if (!quiet) continue;
    if (run.grow_pause == Nanoseconds(0)) run.grow_pause = *quiet;
    if (quiet != milliseconds(10)) continue;
    run.peak_bytes = std::max(run.peak_bytes, sandbox.allocated_bytes());
    run.churned += *quiet;
  }
  while (!sandbox.bursting()) {
    run.idled += guest.Step(sandbox).value_or(Nanoseconds(0));
  }
  EXPECT_GT(guest.allocator.waited(), 5);
  return run;
}

TEST(BlockedWorkloadTest, ASandboxDoesAllOfEachPhase) {
  const SandboxRun run = RunSandbox();
  EXPECT_EQ(run.steady_bytes, 8 * kMiB);
  // 16 MiB in steps of 2 MiB, and one for the rest.
  EXPECT_EQ(run.grow_pause, Nanoseconds(seconds(2)) / 9);
  // Of each mapping of 2 MiB or less an eighth is read as files.
  EXPECT_GE(run.peak_bytes, 24 * kMiB);
  EXPECT_LE(run.peak_bytes, 24 * kMiB + 256 * kKiB);
  EXPECT_EQ(run.churned, seconds(1));
  EXPECT_EQ(run.idled, seconds(3));
}

// At whichever request. Files may exceed the target: an eighth of the last
// step, and of the one before it if that was blocked.
TEST(BlockedWorkloadTest, ASandboxGrowsToItsTargetAndReadsAnEighthOfThat) {
  for (uint64_t first = 1; first < 4000; first += 7) {
    WaitingGuest guest(first, /*period=*/1'000'000);
    SandboxWorkload sandbox(kSandbox, /*seed=*/1);
    while (!sandbox.bursting()) guest.Step(sandbox);
    uint64_t mapped = 0;
    uint64_t peak = 0;
    // At its peak it pauses for 10 ms.
    while (guest.Step(sandbox) != milliseconds(10)) {
      mapped = std::max(mapped, sandbox.burst_bytes());
      peak = std::max(peak, sandbox.allocated_bytes());
    }
    ASSERT_GE(peak, 24 * kMiB) << first;
    ASSERT_LE(peak, 24 * kMiB + 2 * 256 * kKiB) << first;
    ASSERT_EQ(sandbox.file_bytes(), mapped / 8 / kPageSize * kPageSize)
        << first;
  }
}

// However often it is blocked, and whatever files hold by then.
TEST(BlockedWorkloadTest, ASandboxNeverMapsMoreThanItsTarget) {
  for (uint64_t period = 50; period < 150; ++period) {
    WaitingGuest guest(period);
    SandboxWorkload sandbox(kSandbox, /*seed=*/1);
    while (!sandbox.bursting()) guest.Step(sandbox);
    while (sandbox.bursting()) {
      guest.Step(sandbox);
      ASSERT_LE(sandbox.steady_bytes() + sandbox.burst_bytes(), 24 * kMiB)
          << period;
    }
  }
}

// The workload of compare: a burst, and then 15 s of rest.
TEST(BlockedWorkloadTest, ARepeatedBurstRestsAsLongAsWithoutWaiting) {
  WaitingGuest guest(/*period=*/37);
  const auto recipe =
      std::find_if(WorkloadRecipes().begin(), WorkloadRecipes().end(),
                   [](const auto& r) { return r.workload.name == "burst"; });
  ASSERT_NE(recipe, WorkloadRecipes().end());
  BootedGuest world{.allocator = guest.allocator,
                    .vcpus = guest.guest.guest->all_vcpus(),
                    .guest_bytes = 16 * kMiB,
                    .duration = seconds(60),
                    .random = Random(1)};
  const GuestLoad load = recipe->make(world);
  Workload& burst = *load.by_vcpu.front();
  Nanoseconds rested{0};
  // To the first work after a rest.
  uint64_t work = 0;
  do {
    work = burst.work();
    rested += guest.Step(burst).value_or(Nanoseconds(0));
    ASSERT_GE(burst.work(), work);
  } while (work == burst.work() || rested == Nanoseconds(0));
  EXPECT_EQ(rested, seconds(15));
}

}  // namespace
}  // namespace guestmm::blocked_workload_test
