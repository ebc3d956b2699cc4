// Comparisons in several processes, one after the other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "guestmm/base/signal_cleanup.h"
#include "guestmm/experiment/compare/compare.h"
#include "tests/experiment/compare/compare_testing.h"

namespace guestmm::compare_processes_test {
namespace {

using testing::StartsWith;

using CompareProcessesTest = PlantedCompareTest;

// A process with rows of off and of v12, whose work_share_of_off is `share`.
CompareProcess ProcessWithShare(double share) {
  CompareProcess process;
  for (const char* policy : {"off", "v12"}) {
    CompareRow row;
    row.workload = "burst";
    row.policy = policy;
    row.work_share_of_off = row.policy == "off" ? 1 : share;
    row.lock_max_us = 100 * share;
    process.rows.push_back(row);
  }
  process.samples.emplace_back().repeat = 3;
  return process;
}

TEST_F(CompareProcessesTest, SeveralProcessesAreMediansAndASpread) {
  const auto resolved = ResolveCompare(
      {.mode = CompareMode::kReal, .repeats = 5, .processes = 3}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  const std::vector<double> shares = {0.98, 0.94, 0.97};
  std::vector<uint64_t> begun;
  const auto merged = RunCompare(
      *resolved,
      {.progress =
           [&](const CompareProgress& progress) {
             begun.push_back(progress.process);
             EXPECT_EQ(progress.done, progress.process - 1);
             EXPECT_EQ(progress.whole, 3);
           },
       .run_process =
           [&] { return ProcessWithShare(shares[begun.size() - 1]); }});
  ASSERT_EQ(merged.status(), absl::OkStatus());
  EXPECT_THAT(begun, testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(RowOf(*merged, "off").work_share_of_off, 1);
  const CompareRow& v12 = RowOf(*merged, "v12");
  EXPECT_EQ(v12.work_share_of_off, 0.97);
  EXPECT_EQ(v12.lock_max_us, 97);
  EXPECT_EQ(v12.work_share_of_off_min, 0.94);
  EXPECT_EQ(v12.work_share_of_off_max, 0.98);
  ASSERT_EQ(merged->samples.size(), 3u);
  EXPECT_EQ(merged->samples[0].repeat, 3u);
  EXPECT_EQ(merged->samples[2].repeat, 13u);
}

TEST_F(CompareProcessesTest, NamesTheProcessThatFailed) {
  const auto resolved =
      ResolveCompare({.mode = CompareMode::kReal, .processes = 2}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  int runs = 0;
  int failing = 1;
  const CompareHooks hooks = {
      .run_process = [&]() -> absl::StatusOr<CompareProcess> {
        if (++runs != failing) return ProcessWithShare(0.9);
        return absl::InvalidArgumentError("is wrong");
      }};
  EXPECT_EQ(RunCompare(*resolved, hooks).status(),
            absl::InternalError("process 1 of 2: is wrong"));
  // The rows of the first are kept.
  runs = 0;
  failing = 2;
  const auto first = RunCompare(*resolved, hooks);
  ASSERT_EQ(first.status(), absl::OkStatus());
  EXPECT_EQ(first->status, absl::InternalError("process 2 of 2: is wrong"));
  EXPECT_FALSE(first->complete);
  EXPECT_EQ(RowOf(*first, "v12").work_share_of_off, 0.9);
  runs = 0;
  EXPECT_EQ(RunCompare(*resolved, {.run_process =
                                       [&] {
                                         CompareProcess process =
                                             ProcessWithShare(1);
                                         if (++runs == 2)
                                           process.rows.pop_back();
                                         return process;
                                       }})
                .status(),
            absl::FailedPreconditionError(
                "processes differ in row 0: one has burst, off there"));
}

// It is the stop that ends the second one.
TEST_F(CompareProcessesTest, AStopIsNoErrorOfTheProcessThatItEnds) {
  const auto resolved =
      ResolveCompare({.mode = CompareMode::kReal, .processes = 3}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  int runs = 0;
  CompareHooks hooks;
  hooks.stopped = [&] { return runs == 2; };
  hooks.run_process = [&]() -> absl::StatusOr<CompareProcess> {
    if (++runs == 1) return ProcessWithShare(0.9);
    return absl::InternalError("was ended by signal 15");
  };
  const auto result = RunCompare(*resolved, hooks);
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_EQ(result->status, absl::OkStatus());
  EXPECT_FALSE(result->complete);
  EXPECT_EQ(RowOf(*result, "v12").work_share_of_off, 0.9);
}

TEST_F(CompareProcessesTest, QuotesAProcessThatCannotBeRun) {
  EXPECT_EQ(RunCompareProcess({"/nonexistent"}).status(),
            absl::InternalError("cannot be started: No such file or "
                                "directory"));
  EXPECT_EQ(RunCompareProcess({"/bin/false"}).status(),
            absl::InternalError("ended with exit status 1"));
  EXPECT_EQ(
      RunCompareProcess({"/bin/sh", "-c", "echo no >&2; exit 3"}).status(),
      absl::InternalError("ended with exit status 3: no"));
  EXPECT_THAT(std::string(RunCompareProcess({"/bin/sh", "-c", "kill -9 $$"})
                              .status()
                              .message()),
              StartsWith("was ended by signal 9, "));
  EXPECT_EQ(RunCompareProcess({"/bin/true"}).status(),
            absl::InvalidArgumentError("summary.json: must be a JSON object"));
}

#ifndef __SANITIZE_THREAD__
// ThreadSanitizer holds a signal back while waitid() waits.

// A process that sends its parent `signal` and runs until it is ended.
// Temporary folders are in `top`. Returns an exit status.
int RunUntilSignal(const std::string& signal, const std::string& top) {
  setenv("TMPDIR", top.c_str(), 1);
  CleanUpAtSignals();
  const InterruptWatch watch;
  const absl::Status status =
      RunCompareProcess(
          {"/bin/sh", "-c", "kill -" + signal + " $PPID; exec sleep infinity"})
          .status();
  return status == absl::InternalError("was ended by signal 15, Terminated") &&
                 watch.interrupted()
             ? 0
             : 1;
}

TEST_F(CompareProcessesTest, ASignalEndsTheProcessAndRemovesItsFolder) {
  const std::string top = testing::TempDir() + "compare_processes_signal";
  std::filesystem::create_directory(top);
  EXPECT_EXIT(exit(RunUntilSignal("INT", top)), testing::ExitedWithCode(0), "");
  EXPECT_TRUE(std::filesystem::is_empty(top));
  EXPECT_EXIT(exit(RunUntilSignal("TERM", top)),
              testing::KilledBySignal(SIGTERM), "");
  EXPECT_TRUE(std::filesystem::is_empty(top));
  std::filesystem::remove(top);
}
#endif

}  // namespace
}  // namespace guestmm::compare_processes_test
