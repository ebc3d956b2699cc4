// Properties of every workload.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/workload/build_workload.h"
#include "guestmm/workload/burst_workload.h"
#include "guestmm/workload/churn_workload.h"
#include "guestmm/workload/fragmenter_workload.h"
#include "guestmm/workload/idle_workload.h"
#include "guestmm/workload/interleaved_workload.h"
#include "guestmm/workload/page_cache_workload.h"
#include "guestmm/workload/page_fault1_workload.h"
#include "guestmm/workload/sandbox_workload.h"
#include "tests/testing/counting_backing.h"

namespace guestmm::every_workload_test {
namespace {

struct WorkloadMaker {
  std::string name;
  // Makes one of about `bytes` for `guest`.
  std::function<std::unique_ptr<Workload>(Guest& guest, uint64_t bytes,
                                          uint64_t seed)>
      make;
};

void PrintTo(const WorkloadMaker& maker, std::ostream* os) {
  *os << maker.name;
}

std::unique_ptr<Workload> MakeBuild(uint64_t bytes, uint64_t seed) {
  return std::make_unique<BuildWorkload>(
      BuildOptions{.phases = 4,
                   .processes = 5,
                   .min_process_bytes = bytes / 8,
                   .max_process_bytes = bytes / 2},
      seed);
}

std::vector<WorkloadMaker> Makers() {
  return {
      {"Burst",
       [](Guest&, uint64_t bytes, uint64_t seed) {
         return std::make_unique<BurstWorkload>(bytes, seed);
       }},
      {"Idle",
       [](Guest&, uint64_t, uint64_t seed) {
         return std::make_unique<IdleWorkload>(seed);
       }},
      {"PageFault1",
       [](Guest&, uint64_t bytes, uint64_t) {
         return std::make_unique<PageFault1Workload>(
             PageFault1Options{.bytes = bytes});
       }},
      {"PageFault1Huge",
       [](Guest&, uint64_t bytes, uint64_t) {
         return std::make_unique<PageFault1Workload>(
             PageFault1Options{.bytes = bytes, .order = Order(9)});
       }},
      {"Churn",
       [](Guest&, uint64_t bytes, uint64_t seed) {
         return std::make_unique<ChurnWorkload>(ChurnOptions{.bytes = bytes},
                                                seed);
       }},
      {"Fragmenter",
       [](Guest&, uint64_t bytes, uint64_t seed) {
         return std::make_unique<FragmenterWorkload>(
             FragmenterOptions{.bytes = bytes}, seed);
       }},
      {"PageCache",
       [](Guest& guest, uint64_t bytes, uint64_t) {
         return std::make_unique<PageCacheWorkload>(
             PageCacheOptions{.max_bytes = bytes}, guest.allocator(),
             guest.all_vcpus());
       }},
      {"Build", [](Guest&, uint64_t bytes,
                   uint64_t seed) { return MakeBuild(bytes, seed); }},
      {"Sandbox",
       [](Guest&, uint64_t bytes, uint64_t seed) {
         return std::make_unique<SandboxWorkload>(
             SandboxOptions{.bytes = bytes}, seed);
       }},
      {"BuildTogetherWithPageCache",
       [](Guest& guest, uint64_t bytes, uint64_t seed) {
         std::vector<std::unique_ptr<Workload>> both;
         both.push_back(MakeBuild(bytes, seed));
         both.push_back(std::make_unique<PageCacheWorkload>(
             PageCacheOptions{.max_bytes = bytes}, guest.allocator(),
             guest.all_vcpus()));
         return std::make_unique<InterleavedWorkload>(std::move(both));
       }},
  };
}

// Runs it for 3000 steps, or until it ends.
void RunAWhile(Workload& workload, Vcpu& vcpu) {
  for (int step = 0; step < 3000; ++step) {
    const std::optional<Nanoseconds> quiet = workload.Step(vcpu);
    if (!quiet) return;
    ASSERT_GE(*quiet, Nanoseconds(0));
  }
}

class EveryWorkloadTest : public testing::TestWithParam<WorkloadMaker> {};

TEST_P(EveryWorkloadTest, TheSameSeedIsTheSameRun) {
  std::vector<CountingBacking::Sequence> allocated;
  std::vector<CountingBacking::Sequence> freed;
  for (int run = 0; run < 2; ++run) {
    CountingGuest guest(64 * kMiB);
    const auto workload = GetParam().make(*guest.guest, 32 * kMiB, /*seed=*/7);
    RunAWhile(*workload, guest.vcpu());
    allocated.push_back(guest.backing->allocated());
    freed.push_back(guest.backing->freed());
  }
  EXPECT_FALSE(allocated[0].empty());
  EXPECT_TRUE(allocated[0] == allocated[1]);
  EXPECT_TRUE(freed[0] == freed[1]);
}

TEST_P(EveryWorkloadTest, ItsWorkIsThePagesItTouches) {
  CountingGuest guest(64 * kMiB);
  const auto workload = GetParam().make(*guest.guest, 32 * kMiB, /*seed=*/1);
  EXPECT_EQ(workload->work(), 0u);
  RunAWhile(*workload, guest.vcpu());
  EXPECT_GT(workload->work(), 0u);
  const uint64_t touched = guest.backing->touched().value();
  if (GetParam().name == "Sandbox") {
    // Pages touched while idle are not work.
    EXPECT_LT(workload->work(), touched);
  } else {
    EXPECT_EQ(workload->work(), touched);
  }
}

TEST_P(EveryWorkloadTest, MakesDoWithAGuestThatIsTooSmall) {
  CountingGuest guest(64 * kMiB);
  const auto workload = GetParam().make(*guest.guest, kGiB, /*seed=*/1);
  RunAWhile(*workload, guest.vcpu());
  EXPECT_GT(workload->work(), 0u);
  EXPECT_EQ(guest.backing->held(),
            guest.guest->allocator().Counts().allocated());
  EXPECT_EQ(guest.guest->CheckInvariants(), absl::OkStatus());
}

// Time must advance even if every allocation fails.
TEST_P(EveryWorkloadTest, DoesNotSpinWhereMemoryIsOut) {
  CountingGuest guest(64 * kMiB);
  while (guest.guest->allocator().Allocate(
      0, Order(0), {.reserves = Reserves::kAll, .may_reclaim = false})) {
  }
  while (guest.guest->allocator().Allocate(
      0, Order(0),
      {.type = MigrateType::kMovable, .reserves = Reserves::kAll})) {
  }
  const auto workload = GetParam().make(*guest.guest, 32 * kMiB, /*seed=*/1);
  bool ended = false;
  Nanoseconds passed{0};
  for (int step = 0; step < 200 && !ended; ++step) {
    const std::optional<Nanoseconds> quiet = workload->Step(guest.vcpu());
    ended = !quiet;
    passed += quiet.value_or(Nanoseconds(0));
  }
  EXPECT_EQ(workload->work(), 0u);
  EXPECT_TRUE(ended || passed > std::chrono::milliseconds(1)) << passed.count();
}

INSTANTIATE_TEST_SUITE_P(, EveryWorkloadTest, testing::ValuesIn(Makers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace guestmm::every_workload_test
