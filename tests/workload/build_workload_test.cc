#include "guestmm/workload/build_workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "tests/testing/counting_backing.h"

namespace guestmm::build_workload_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr BuildOptions kSmallBuild = {.phases = 4,
                                      .processes = 6,
                                      .min_process_bytes = kMiB,
                                      .max_process_bytes = 16 * kMiB};

TEST(BuildWorkloadTest, RunsItsPhasesWithQuietBetween) {
  CountingGuest guest(64 * kMiB);
  BuildWorkload build(kSmallBuild, /*seed=*/1);
  int quiet = 0;
  uint64_t peak = 0;
  std::vector<uint64_t> processes;
  while (true) {
    const std::optional<Nanoseconds> pause = build.Step(guest.vcpu());
    if (!pause) break;
    if (build.process_bytes() > 0) {
      peak = std::max(peak, build.process_bytes());
    } else if (peak > 0) {
      processes.push_back(peak);
      peak = 0;
    }
    if (*pause == seconds(20)) {
      ++quiet;
      EXPECT_EQ(build.phases_done(), quiet);
      // All processes have exited; files and slabs remain.
      EXPECT_EQ(build.process_bytes(), 0u);
      EXPECT_GT(build.kernel_bytes(), 0u);
      EXPECT_GT(build.file_bytes(), 0u);
    } else if (*pause > Nanoseconds(0)) {
      EXPECT_GE(*pause, milliseconds(1));
      EXPECT_LE(*pause, milliseconds(3));
    }
    ASSERT_EQ(
        guest.backing->held().bytes(),
        build.process_bytes() + build.kernel_bytes() + build.file_bytes());
  }
  EXPECT_EQ(quiet, 3);
  EXPECT_EQ(build.phases_done(), 4);
  EXPECT_EQ(processes.size(), 24u);
  const auto [least, most] =
      std::minmax_element(processes.begin(), processes.end());
  EXPECT_GE(*least, kMiB);
  EXPECT_LE(*most, 16 * kMiB);
  // Log-uniform: the median is the geometric mean, 4 MiB.
  std::nth_element(processes.begin(), processes.begin() + 12, processes.end());
  EXPECT_GT(processes[12], 2 * kMiB);
  EXPECT_LT(processes[12], 8 * kMiB);
}

TEST(BuildWorkloadTest, LeavesFilesAndTheKernelMemoryOfTwoPhases) {
  CountingGuest guest(64 * kMiB);
  BuildWorkload build(kSmallBuild, /*seed=*/1);
  // At the ends of phases.
  std::vector<uint64_t> kernel = {0};
  std::vector<uint64_t> files = {0};
  std::optional<Nanoseconds> pause;
  do {
    const int done = build.phases_done();
    pause = build.Step(guest.vcpu());
    if (build.phases_done() == done) continue;
    kernel.push_back(build.kernel_bytes());
    files.push_back(build.file_bytes());
  } while (pause);
  ASSERT_EQ(kernel.size(), 5u);
  for (size_t phase = 1; phase <= 4; ++phase) {
    EXPECT_GT(files[phase], files[phase - 1]);
  }
  // The processes touched what the backing counted, except for slabs, 1 % of
  // that (half of it freed again), and files, 2 %.
  const double left = static_cast<double>(build.file_bytes()) / 0.02;
  const double processes = static_cast<double>(build.work() * kPageSize) / 1.03;
  EXPECT_NEAR(left, processes, processes / 50);
  EXPECT_GT(kernel[2], kernel[1]);
  EXPECT_LT(kernel[4], kernel[2] * 3);
  EXPECT_LT(static_cast<double>(build.kernel_bytes()), processes * 0.0075);
  EXPECT_EQ(guest.backing->held().bytes(),
            build.kernel_bytes() + build.file_bytes());
}

TEST(BuildWorkloadTest, KeepsNoMoreThanItMay) {
  CountingGuest guest(64 * kMiB);
  BuildOptions options = kSmallBuild;
  options.max_kernel_bytes = 64 * kKiB;
  options.max_file_bytes = 128 * kKiB;
  BuildWorkload build(options, /*seed=*/1);
  while (build.Step(guest.vcpu())) {
    ASSERT_LE(build.kernel_bytes(), 64 * kKiB);
    ASSERT_LE(build.file_bytes(), 128 * kKiB);
  }
  EXPECT_EQ(build.file_bytes(), 128 * kKiB);
}

TEST(BuildWorkloadTest, AShareOfItIsHugePages) {
  CountingGuest guest(128 * kMiB);
  BuildOptions options = kSmallBuild;
  options.min_process_bytes = 32 * kMiB;
  options.max_process_bytes = 64 * kMiB;
  BuildWorkload build(options, /*seed=*/1);
  while (build.Step(guest.vcpu())) {
  }
  double huge = 0;
  double all = 0;
  for (const auto& [pfn, order] : guest.backing->allocated()) {
    ASSERT_TRUE(order == Order(0) || order == kPageblockOrder) << order;
    const auto pages = static_cast<double>(order.pages().value());
    all += pages;
    if (order > Order(0)) huge += pages;
  }
  EXPECT_NEAR(huge / all, 0.3, 0.05);
}

// One process of that size, which leaves nothing behind.
BuildOptions OneProcess(uint64_t bytes) {
  return {.phases = 1,
          .processes = 1,
          .min_process_bytes = bytes,
          .max_process_bytes = bytes,
          .huge_share = 0,
          .kernel_share = 0,
          .file_share = 0};
}

uint64_t PeakOf(const BuildOptions& options) {
  CountingGuest guest(64 * kMiB);
  BuildWorkload build(options, /*seed=*/1);
  uint64_t peak = 0;
  while (build.Step(guest.vcpu())) peak = std::max(peak, build.process_bytes());
  return peak;
}

TEST(BuildWorkloadTest, AProcessGrowsToItsSizeInWholeSteps) {
  EXPECT_EQ(PeakOf(OneProcess(8 * kMiB)), 8 * kMiB);
  EXPECT_EQ(PeakOf(OneProcess(kMiB + 1)), kMiB + 256 * kKiB);
  // Its last mapping is too small for a huge page.
  BuildOptions huge = OneProcess(3 * kMiB);
  huge.huge_share = 1;
  EXPECT_EQ(PeakOf(huge), 3 * kMiB);
}

TEST(BuildWorkloadTest, LeavesWholePagesOfItsShares) {
  CountingGuest guest(64 * kMiB);
  BuildOptions options = OneProcess(kMiB);
  options.kernel_share = 1.0 / 128;
  options.file_share = 1.0 / 32;
  BuildWorkload build(options, /*seed=*/1);
  while (build.Step(guest.vcpu())) {
  }
  EXPECT_EQ(build.kernel_bytes(), 2 * kPageSize);
  EXPECT_EQ(build.file_bytes(), 8 * kPageSize);
}

TEST(BuildWorkloadTest, ComputesForTimesOfItsWholeRange) {
  CountingGuest guest(64 * kMiB);
  BuildWorkload build(OneProcess(16 * kMiB), /*seed=*/1);
  Nanoseconds least = seconds(1);
  Nanoseconds most{0};
  while (const std::optional<Nanoseconds> pause = build.Step(guest.vcpu())) {
    if (*pause == Nanoseconds(0)) continue;
    least = std::min(least, *pause);
    most = std::max(most, *pause);
  }
  EXPECT_LT(least, milliseconds(2));
  EXPECT_GT(most, milliseconds(2));
}

TEST(BuildWorkloadTest, HalfOfItsKernelMemoryIsReclaimable) {
  CountingGuest guest(64 * kMiB);
  BuildOptions options = OneProcess(4 * kMiB);
  options.kernel_share = 1;
  BuildWorkload build(options, /*seed=*/1);
  while (build.Step(guest.vcpu())) {
  }
  const PageMap& pages = guest.guest->allocator().pages();
  double reclaimable = 0;
  double all = 0;
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    if (pages.Get(pfn).state != PageState::kAllocated) continue;
    ++all;
    if (pages.AllocatedAs(pfn) == MigrateType::kReclaimable) ++reclaimable;
  }
  EXPECT_EQ(all, 1024);
  EXPECT_NEAR(reclaimable / all, 0.5, 0.05);
}

// Exits free a mapping at a time, and the ends of phases 512 blocks.
TEST(BuildWorkloadTest, FreesNoMoreThan512BlocksInAStep) {
  CountingGuest guest(64 * kMiB);
  BuildOptions options = OneProcess(4 * kMiB);
  options.phases = 3;
  options.kernel_share = 1;
  BuildWorkload build(options, /*seed=*/1);
  size_t freed = 0;
  bool more = true;
  while (more) {
    more = build.Step(guest.vcpu()).has_value();
    ASSERT_LE(guest.backing->freed().size() - freed, 512u);
    freed = guest.backing->freed().size();
  }
  // The phases' processes, and the kernel memory of the first.
  EXPECT_EQ(guest.backing->freed().size(), 4 * 1024u);
}

TEST(BuildWorkloadTest, AProcessThatFindsNoMemoryExits) {
  CountingGuest guest(64 * kMiB);
  BuildOptions options = kSmallBuild;
  options.min_process_bytes = kGiB;
  options.max_process_bytes = kGiB;
  BuildWorkload build(options, /*seed=*/1);
  uint64_t peak = 0;
  while (build.Step(guest.vcpu())) peak = std::max(peak, build.process_bytes());
  EXPECT_GT(peak, 50 * kMiB);
  EXPECT_EQ(build.phases_done(), 4);
  EXPECT_EQ(build.process_bytes(), 0u);
}

}  // namespace
}  // namespace guestmm::build_workload_test
