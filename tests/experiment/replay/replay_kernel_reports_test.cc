// Replays under the policy "real": of what the guest's kernel reported.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "guestmm/experiment/replay/replay.h"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_kernel_reports_test {
namespace {

using ReplayKernelReportsTest = HandmadeReplayTest;

TEST_F(ReplayKernelReportsTest, WhatTheRealKernelReportedIsDiscardedAtItsTime) {
  const auto at = [](uint64_t pfn, uint64_t bytes) {
    return GpaRange{Gpa(pfn * kPageSize), bytes};
  };
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  recording_.end = std::chrono::seconds(15);
  recording_.reports = {
      {std::chrono::seconds(9), at(kFirst, 4 * kMiB)},  // before
      {std::chrono::seconds(12), at(kFirst, 4 * kMiB)},
      {std::chrono::seconds(13), at(kFirst, 2 * kMiB)},   // again
      {std::chrono::seconds(16), at(kFirst, 4 * kMiB)}};  // after
  ReplayOptions options;
  options.policy = "real";
  options.tail = std::chrono::seconds(5);
  const ReplayResult real = Run(options);
  ASSERT_EQ(real.reports.size(), 2u);
  EXPECT_EQ(real.reports[0].time, std::chrono::seconds(12));
  EXPECT_EQ(real.reports[1].range, at(kFirst, 2 * kMiB));
  EXPECT_EQ(real.reported_bytes, 6 * kMiB);
  EXPECT_EQ(real.needless_bytes, 2 * kMiB);
  EXPECT_EQ(real.discard_calls, 2u);
  EXPECT_EQ(real.scatterlists, std::nullopt);
  EXPECT_EQ(real.end, std::chrono::seconds(20));
  for (const ReplaySample& sample : real.samples) {
    if (sample.time == std::chrono::seconds(10)) continue;
    EXPECT_EQ(sample.resident_bytes,
              sample.time <= std::chrono::seconds(12) ? 4 * kMiB : 0);
  }
  // 4 MiB resident for two seconds, and in use for one.
  const uint64_t seconds = 1024 * uint64_t{1'000'000};
  EXPECT_EQ(real.footprint.resident, 2 * seconds);
  EXPECT_EQ(real.footprint.in_use, seconds);
  EXPECT_EQ(real.host_share_of_free, 1);
  EXPECT_EQ(real.host_share_of_reportable, 1);

  options.policy = "off";
  const ReplayResult off = Run(options);
  EXPECT_EQ(off.footprint.resident, 10 * seconds);
  EXPECT_EQ(off.footprint.in_use, real.footprint.in_use);
  EXPECT_DOUBLE_EQ(*off.host_share_of_free, 508.0 / 512);
  EXPECT_DOUBLE_EQ(*off.host_share_of_reportable, 508.0 / 512);
  EXPECT_EQ(off.scatterlists, 0u);
  EXPECT_EQ(off.discard_calls, 0u);
}

// The clocks of guest and VMM differ a little.
TEST_F(ReplayKernelReportsTest, MemoryInUseWhenItIsReportedStaysResident) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  Alloc(11.990, kFirst, 9);
  recording_.end = std::chrono::seconds(15);
  recording_.reports = {
      {std::chrono::seconds(12), {Gpa(kFirst * kPageSize), 4 * kMiB}}};
  ReplayOptions options;
  options.policy = "real";
  const ReplayResult result = Run(options);
  EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
  EXPECT_EQ(result.reported_bytes, 4 * kMiB);
  EXPECT_EQ(result.needless_bytes, 0u);
}

TEST_F(ReplayKernelReportsTest, AnAllocationRightAfterItsReportIsARefault) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  Alloc(12.5, kFirst, 10);
  recording_.reports = {
      {std::chrono::seconds(12), {Gpa(kFirst * kPageSize), 4 * kMiB}}};
  ReplayOptions options;
  options.policy = "real";
  EXPECT_EQ(Run(options).refaults, 2u);
  recording_.reports[0].time -= std::chrono::milliseconds(600);
  EXPECT_EQ(Run(options).refaults, 0u);
}

// A wrong reports.csv does no harm.
TEST_F(ReplayKernelReportsTest, RealReportsMayLieOutsideOfMemory) {
  Alloc(10.0, kFirst + kPages - 1024, 10);
  Free(10.1, kFirst + kPages - 1024, 10);
  recording_.end = std::chrono::seconds(15);
  const uint64_t last = (kFirst + kPages - 512) * kPageSize;
  recording_.reports = {
      {std::chrono::seconds(12), {Gpa(last), uint64_t{1} << 51}},
      {std::chrono::seconds(12), {Gpa(last - 2 * kMiB + 1), 2 * kMiB - 1}},
      {std::chrono::seconds(12), {Gpa(uint64_t{1} << 51), 2 * kMiB}},
      {std::chrono::seconds(12), {Gpa(0), 0}}};
  ReplayOptions options;
  options.policy = "real";
  const ReplayResult result = Run(options);
  EXPECT_EQ(result.reports.size(), 4u);
  EXPECT_EQ(result.samples.back().resident_bytes, kPageSize)
      << "the page of which a byte was not reported";
}

}  // namespace
}  // namespace guestmm::replay_kernel_reports_test
