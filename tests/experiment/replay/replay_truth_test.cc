// Replays of the recordings in data/, compared with what its guest's kernel
// did.

#include <gtest/gtest.h>

#include <string>

#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"

namespace guestmm::replay_truth_test {
namespace {

ReplayResult ReplayUnder(const Recording& recording, ReplayPlacement placement,
                         const std::string& policy) {
  ReplayOptions options;
  options.placement = placement;
  options.policy = policy;
  auto result = Replay(recording, options);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : ReplayResult{};
}

TEST(ReplayTruthTest, LinuxOnTheRecordedPagesDoesWhatLinuxDid) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/procs").value();
  ASSERT_TRUE(recording.has_truth());
  const ReplayResult result =
      ReplayUnder(recording, ReplayPlacement::kRecorded, "linux");
  EXPECT_EQ(result.counters.events, 374249u);
  EXPECT_LT(result.counters.unmatched_frees, result.counters.frees / 100);
  EXPECT_LT(result.counters.forced_placements,
            result.counters.allocations / 100);
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_GE(fidelity.block_match.value(), 0.95);
  EXPECT_LE(fidelity.resident_mae_percent.value(), 0.25);
  EXPECT_LE(fidelity.buddyinfo_distance.value(), 0.02);
  const double share = static_cast<double>(fidelity.reported_bytes) /
                       static_cast<double>(fidelity.truth_reported_bytes);
  EXPECT_NEAR(share, 1, 0.02);
}

// A kernel whose per-CPU lists hold much, in a recording that shows them.
TEST(ReplayTruthTest, Linux612OnTheRecordedPagesDoesWhatLinuxDid) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/churn612").value();
  ASSERT_TRUE(recording.has_truth());
  const ReplayResult result =
      ReplayUnder(recording, ReplayPlacement::kRecorded, "linux");
  EXPECT_LT(result.counters.forced_placements,
            result.counters.allocations / 1000);
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_GE(fidelity.block_match.value(), 0.99);
  EXPECT_LE(fidelity.resident_mae_percent.value(), 0.5);
  EXPECT_LE(fidelity.buddyinfo_distance.value(), 0.002);
  const double share = static_cast<double>(fidelity.reported_bytes) /
                       static_cast<double>(fidelity.truth_reported_bytes);
  EXPECT_NEAR(share, 1, 0.01);
}

// The real kernel reported free memory, so that with its reports the model of
// the host comes to the resident memory of its VMM.
TEST(ReplayTruthTest, TheRealKernelsReportsFitTheModel) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/procs").value();
  const ReplayResult result =
      ReplayUnder(recording, ReplayPlacement::kRecorded, "real");
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_EQ(fidelity.reported_bytes, fidelity.truth_reported_bytes);
  EXPECT_EQ(fidelity.block_match, 1);
  EXPECT_LE(fidelity.resident_mae_percent.value(), 0.15);
  // Two blocks.
  EXPECT_EQ(result.needless_bytes, 4 * kMiB);
  EXPECT_GT(*result.host_share_of_reportable, 0.98);
}

TEST(ReplayTruthTest, TheModelledAllocatorFragmentsAsLinuxDoes) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/procs").value();
  const ReplayResult result =
      ReplayUnder(recording, ReplayPlacement::kNative, "linux");
  EXPECT_EQ(result.counters.failed_allocations, 0u);
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_LE(fidelity.resident_mae_percent.value(), 5);
}

// The measure can tell: other policies, and none, are farther from the truth.
TEST(ReplayTruthTest, AnotherPolicyIsFarther) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/procs").value();
  const Fidelity off = CompareToTruth(
      recording, ReplayUnder(recording, ReplayPlacement::kRecorded, "off"));
  EXPECT_EQ(off.block_match, 0);
  EXPECT_EQ(off.reported_bytes, 0u);
  EXPECT_GT(off.resident_mae_percent.value(), 0.5);
  const Fidelity v12 = CompareToTruth(
      recording, ReplayUnder(recording, ReplayPlacement::kRecorded, "v12"));
  EXPECT_LT(v12.block_match.value(), 0.95);
}

}  // namespace
}  // namespace guestmm::replay_truth_test
