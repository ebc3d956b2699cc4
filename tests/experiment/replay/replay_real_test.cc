// Replays on real RAM of a guest of 32 MiB.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/report/replay_report.h"
#include "tests/experiment/replay/replay_testing.h"
#include "tests/testing/planted_policies.h"

namespace guestmm::replay_real_test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class ReplayRealTest : public HandmadeReplayTest,
                       public ::testing::WithParamInterface<ReplayPlacement> {
 protected:
  ReplayRealTest() : HandmadeReplayTest(/*pages=*/0x2000, /*in_use=*/600) {}

  static ReplayOptions Options(ReplayMode mode, ReplayPlacement placement) {
    ReplayOptions options;
    options.mode = mode;
    options.placement = placement;
    options.granule = Order(0);
    // Linux reports nothing in a zone that has less than a whole report free.
    options.policy_parameters = {{"capacity", "1"}};
    options.frame_interval = seconds(1);
    options.tail = seconds(6);
    return options;
  }
  std::string Series(const ReplayResult& result) const {
    return ReplaySeriesCsv(recording_, std::span(&result, 1));
  }
};

INSTANTIATE_TEST_SUITE_P(Both, ReplayRealTest,
                         ::testing::Values(ReplayPlacement::kRecorded,
                                           ReplayPlacement::kNative),
                         [](const auto& its) {
                           return std::string(Name(its.param));
                         });

// With blocks of many sizes allocated, freed and reported.
TEST_P(ReplayRealTest, TheKernelAgreesWithTheLedger) {
  for (int round = 0; round < 4; ++round) {
    const Nanoseconds time = seconds(10 + 3 * round);
    for (uint64_t i = 0; i < 60; ++i) {
      Alloc(time + milliseconds(i), kFirst + 1024 + 64 * i,
            static_cast<int>(i % 7));
    }
    for (uint64_t i = 0; i < 60; ++i) {
      if (i % 8 == static_cast<uint64_t>(round)) continue;
      Free(time + milliseconds(500 + i), kFirst + 1024 + 64 * i,
           static_cast<int>(i % 7));
    }
    for (uint64_t i = 0; i < 60; ++i) {
      if (i % 8 != static_cast<uint64_t>(round)) continue;
      Free(time + milliseconds(2900 + i), kFirst + 1024 + 64 * i,
           static_cast<int>(i % 7));
    }
  }
  Free(seconds(23), kFirst, 9);
  const ReplayResult in_virtual_time =
      Run(Options(ReplayMode::kVirtual, GetParam()));
  const ReplayResult for_real = Run(Options(ReplayMode::kReal, GetParam()));
  // In use at the start, and the first allocation.
  EXPECT_EQ(for_real.samples.front().resident_bytes, 601 * kPageSize);
  EXPECT_LT(for_real.samples.back().resident_bytes, 600 * kPageSize);
  EXPECT_EQ(Series(for_real), Series(in_virtual_time));
  EXPECT_GT(for_real.reports.size(), 4u);
  ASSERT_EQ(for_real.reports.size(), in_virtual_time.reports.size());
  for (size_t i = 0; i < for_real.reports.size(); ++i) {
    EXPECT_EQ(for_real.reports[i].time, in_virtual_time.reports[i].time);
    EXPECT_EQ(for_real.reports[i].range, in_virtual_time.reports[i].range);
  }
  EXPECT_EQ(for_real.needless_bytes, in_virtual_time.needless_bytes);
  ASSERT_EQ(for_real.frames.size(), in_virtual_time.frames.size());
  for (size_t i = 0; i < for_real.frames.size(); ++i) {
    EXPECT_EQ(for_real.frames[i].blocks, in_virtual_time.frames[i].blocks) << i;
  }
}

// On hosts with and without huge pages.
TEST_P(ReplayRealTest, HugePagesChangeNoReport) {
  Alloc(seconds(10), kFirst + 1024, 10);
  Free(seconds(11), kFirst + 1024, 10);
  ReplayOptions options = Options(ReplayMode::kVirtual, GetParam());
  options.granule = kPageblockOrder;
  const ReplayResult in_virtual_time = Run(options);
  options.mode = ReplayMode::kReal;
  const ReplayResult for_real = Run(options);
  EXPECT_EQ(for_real.reported_bytes, in_virtual_time.reported_bytes);
  EXPECT_GE(for_real.samples.back().resident_bytes, 600 * kPageSize);
  EXPECT_LE(for_real.samples.back().resident_bytes, 1024 * kPageSize);
}

// The page stays isolated until its report ends, and no contents are lost.
TEST_F(ReplayRealTest, AnAllocationOfAnIsolatedPage) {
  Alloc(seconds(10), kFirst + 1024, 10);
  Free(seconds(11), kFirst + 1024, 10);
  ReplayOptions options =
      Options(ReplayMode::kReal, ReplayPlacement::kRecorded);
  const ReplayResult before = Run(options);
  std::optional<Nanoseconds> reported;
  for (const ReplayReport& report : before.reports) {
    if (ToPfn(report.range.gpa) == Pfn(kFirst + 1024)) reported = report.time;
  }
  ASSERT_TRUE(reported.has_value());
  Alloc(*reported - microseconds(5), kFirst + 1030, 0);
  Free(seconds(20), kFirst + 1030, 0);
  const ReplayResult result = Run(options);
  EXPECT_EQ(result.counters.forced_placements, 1u);
  // By its free the page is in use: as one allocated without an event, it was
  // touched.
  EXPECT_EQ(result.counters.unmatched_frees, 1u);
  EXPECT_EQ(result.samples.back().resident_bytes, 601 * kPageSize);
}

TEST_F(ReplayRealTest, NamesThePageThatLostItsContentsAndWhen) {
  RegisterHastyPolicy();
  Alloc(seconds(10), kFirst + 1024, 10);
  Alloc(seconds(10), kFirst + 2048, 10);
  Free(seconds(11), kFirst + 1024, 10);
  Free(seconds(11) + microseconds(5), kFirst + 2048, 10);
  Alloc(seconds(11) + microseconds(10), kFirst + 1024, 10);
  ReplayOptions options =
      Options(ReplayMode::kReal, ReplayPlacement::kRecorded);
  options.policy = "hasty";
  EXPECT_EQ(TryReplay(options).status(),
            absl::DataLossError(absl::StrCat(
                recording_.trace_path,
                ": at 17.000010 s: pfn 0x1400 was in use, and lost its "
                "contents")));
  Free(seconds(15), kFirst + 1024, 10);
  EXPECT_THAT(TryReplay(options).status().ToString(),
              HasSubstr(": at 15.000000 s: pfn 0x1400 was in use"));
}

TEST_F(ReplayRealTest, AGuestLargerThanTheMachineIsRefused) {
  const ReplayOptions options =
      Options(ReplayMode::kReal, ReplayPlacement::kRecorded);
  EXPECT_EQ(CheckReplay(recording_, options, 288 * kMiB), absl::OkStatus());
  EXPECT_EQ(CheckReplay(recording_, options, 288 * kMiB - 1),
            absl::InvalidArgumentError(
                "--real: the guest's 32.00 MiB and 256.00 MiB besides must be "
                "available on this machine, which has 288.00 MiB"));
  EXPECT_EQ(
      CheckReplay(recording_,
                  Options(ReplayMode::kVirtual, ReplayPlacement::kRecorded), 0),
      absl::OkStatus());
  recording_.memory = {{Gpa(0), 512 * kTiB}};
  EXPECT_THAT(TryReplay(options).status().ToString(),
              HasSubstr("--real: the guest's 512.00 TiB and"));
}

// Paced by virtual time, so that the test does not wait.
TEST_F(ReplayRealTest, ASpeedPacesItAndChangesNoResult) {
  Alloc(seconds(10), kFirst + 1024, 10);
  Free(seconds(14), kFirst + 1024, 10);
  recording_.end = seconds(15);
  for (const ReplayMode mode : {ReplayMode::kVirtual, ReplayMode::kReal}) {
    ReplayOptions options = Options(mode, ReplayPlacement::kRecorded);
    const std::string fast = Series(Run(options));
    options.speed = 2;
    VirtualTime clock(1);
    std::vector<Nanoseconds> ahead;
    std::optional<ReplayProgress> last;
    const ReplayResult result =
        Run(options, {.progress =
                          [&](const ReplayProgress& progress) {
                            ahead.push_back(progress.done - 2 * clock.Now());
                            last = progress;
                          },
                      .clock = &clock});
    EXPECT_EQ(Series(result), fast);
    // 11 s of trace.
    EXPECT_EQ(clock.Now(), milliseconds(5500));
    EXPECT_GT(ahead.size(), 40u);
    EXPECT_THAT(ahead, testing::Each(testing::Lt(milliseconds(2))));
    ASSERT_TRUE(last.has_value());
    EXPECT_EQ(last->done, seconds(11));
    EXPECT_EQ(last->whole, seconds(11));
  }
}

TEST_F(ReplayRealTest, TimeAfterAnErrorIsNotWaitedFor) {
  Alloc(seconds(10), kFirst + 1024, 10);
  Free(seconds(14), kFirst + 1024, 10);
  recording_.end = seconds(15);
  ReplayOptions options =
      Options(ReplayMode::kReal, ReplayPlacement::kRecorded);
  options.speed = 2;
  VirtualTime clock(1);
  Alloc(std::chrono::hours(24 * 365), kFirst + 1024, 10);
  EXPECT_FALSE(TryReplay(options, {.clock = &clock}).ok());
  EXPECT_EQ(clock.Now(), seconds(2));
}

TEST_F(ReplayRealTest, ASpeedOutOfBoundsIsRefused) {
  ReplayOptions options;
  for (const double speed : {0.0, -1.0, 0.009, 1.1e6, std::nan("")}) {
    options.speed = speed;
    EXPECT_THAT(TryReplay(options).status().ToString(),
                testing::ContainsRegex(
                    "--speed=-?[0-9.e+na]+: must be 0.01 to 1000000, or max"));
  }
}

TEST_F(ReplayRealTest, ProgressHasNoEndWithoutAWindow) {
  Alloc(seconds(10), kFirst + 1024, 10);
  int calls = 0;
  Run(Options(ReplayMode::kVirtual, ReplayPlacement::kRecorded),
      {.progress = [&](const ReplayProgress& progress) {
        ++calls;
        EXPECT_EQ(progress.whole, std::nullopt);
      }});
  EXPECT_GT(calls, 20);
}

}  // namespace
}  // namespace guestmm::replay_real_test
