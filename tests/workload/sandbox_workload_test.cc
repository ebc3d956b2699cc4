#include "guestmm/workload/sandbox_workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "tests/testing/counting_backing.h"

namespace guestmm::sandbox_workload_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kBytes = 64 * kMiB;
constexpr double kShare = kBytes;

class SandboxWorkloadTest : public testing::Test {
 protected:
  Nanoseconds Step() { return workload_.Step(guest_.vcpu()).value(); }
  // Runs until a burst begins or ends. Returns the time that took.
  Nanoseconds RunUntil(bool bursting) {
    Nanoseconds passed{0};
    while (workload_.bursting() != bursting) {
      passed += Step();
      peak_ = std::max(peak_, workload_.allocated_bytes());
    }
    return passed;
  }

  CountingGuest guest_{128 * kMiB};
  SandboxWorkload workload_{{.bytes = kBytes}, /*seed=*/3};
  uint64_t peak_ = 0;
};

TEST_F(SandboxWorkloadTest, BurstsForSecondsAndIdlesForAMinute) {
  EXPECT_EQ(RunUntil(true), Nanoseconds(0));
  for (int cycle = 0; cycle < 10; ++cycle) {
    peak_ = 0;
    const Nanoseconds burst = RunUntil(false);
    EXPECT_GT(burst, milliseconds(2900));
    EXPECT_LT(burst, milliseconds(7100));
    EXPECT_GT(static_cast<double>(peak_), 0.69 * kShare);
    EXPECT_LT(static_cast<double>(peak_), 0.92 * kShare);
    EXPECT_EQ(workload_.burst_bytes(), 0u);

    const Nanoseconds idle = RunUntil(true);
    EXPECT_GE(idle, seconds(30));
    EXPECT_LT(idle, milliseconds(90200));
  }
}

TEST_F(SandboxWorkloadTest, IdlesWithWhatItsAgentAndItsFilesHold) {
  RunUntil(true);
  EXPECT_NEAR(static_cast<double>(workload_.allocated_bytes()), 0.05 * kShare,
              kPageSize);
  uint64_t files = 0;
  for (int cycle = 0; cycle < 4; ++cycle) {
    RunUntil(true);
    RunUntil(false);
    EXPECT_GE(workload_.file_bytes(), files);
    files = workload_.file_bytes();
    EXPECT_GT(static_cast<double>(files), 0.04 * kShare);
    EXPECT_LE(static_cast<double>(files), 0.1 * kShare + kPageSize);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(Step(), milliseconds(100));
      EXPECT_EQ(guest_.backing->held().bytes(),
                workload_.steady_bytes() + workload_.file_bytes());
    }
  }
}

TEST_F(SandboxWorkloadTest, DrawsFromAllOfItsRanges) {
  std::vector<uint64_t> peaks;
  std::vector<Nanoseconds> idles;
  for (int cycle = 0; cycle < 10; ++cycle) {
    RunUntil(true);
    peak_ = 0;
    RunUntil(false);
    peaks.push_back(peak_);
    idles.push_back(RunUntil(true));
  }
  const auto [lowest, highest] = std::ranges::minmax(peaks);
  EXPECT_LT(static_cast<double>(lowest), 0.78 * kShare);
  EXPECT_GT(static_cast<double>(highest), 0.82 * kShare);
  const auto [shortest, longest] = std::ranges::minmax(idles);
  EXPECT_LT(shortest, seconds(50));
  EXPECT_GT(longest, seconds(70));
}

// Until it idles all that it touches is work, files too.
TEST_F(SandboxWorkloadTest, ItsWorkIsAllThatABurstTouches) {
  RunUntil(true);
  RunUntil(false);
  EXPECT_GT(workload_.file_bytes(), 0u);
  EXPECT_EQ(workload_.work(), guest_.backing->touched().value());
}

TEST_F(SandboxWorkloadTest, FilesAddUpFromPartsOfAPage) {
  // Half a page for each mapping of 2 MiB.
  SandboxWorkload workload({.bytes = kBytes,
                            .burst_share = 0.5,
                            .burst_spread = 0,
                            .steady_share = 0,
                            .files_of_burst = 1.0 / 1024},
                           /*seed=*/1);
  while (!workload.bursting()) workload.Step(guest_.vcpu());
  while (workload.bursting()) workload.Step(guest_.vcpu());
  // The last of 16 mappings is smaller by what files hold already.
  EXPECT_EQ(workload.file_bytes(), 7 * kPageSize);
}

// It then takes as long as one mapping.
TEST_F(SandboxWorkloadTest, ABurstMayBeSmallerThanWhatItsAgentHolds) {
  SandboxWorkload workload({.bytes = kBytes,
                            .burst_share = 0.3,
                            .burst_spread = 0,
                            .steady_share = 0.5},
                           /*seed=*/1);
  while (!workload.bursting()) workload.Step(guest_.vcpu());
  EXPECT_EQ(workload.Step(guest_.vcpu()), seconds(2));
  EXPECT_EQ(workload.allocated_bytes(), kBytes / 2);
}

TEST_F(SandboxWorkloadTest, ChurnsAtItsHeight) {
  RunUntil(true);
  const uint64_t before = workload_.work();
  peak_ = 0;
  RunUntil(false);
  // One to five seconds at 200 MiB per second, in addition to its growth.
  const uint64_t touched = (workload_.work() - before) * kPageSize;
  EXPECT_GT(touched, peak_ + 150 * kMiB);
  EXPECT_LT(touched, peak_ + 1010 * kMiB);
}

}  // namespace
}  // namespace guestmm::sandbox_workload_test
