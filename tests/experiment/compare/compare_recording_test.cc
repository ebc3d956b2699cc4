// Recordings as workloads of compare, of a guest of 512 MiB in which every
// event is known.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/experiment/compare/compare.h"
#include "nlohmann/json.hpp"
#include "tests/experiment/compare/compare_testing.h"
#include "tests/testing/handmade_recording.h"

namespace guestmm::compare_recording_test {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CompareRecordingTest : public HandmadeRecordingTest {
 protected:
  // A recording from 10 s to 20 s of a guest whose memory is all free, and
  // reported, when it begins.
  CompareRecordingTest() : HandmadeRecordingTest(kPages) {
    for (uint64_t pfn = kFirst; pfn < kFirst + kPages; pfn += 1024) {
      recording_.first->reported.emplace_back(pfn);
    }
    WriteFirst();
    Write("window.csv", "start_s,end_s\n10.0,20.0\n");
  }

  // 4 MiB are allocated at 10 s, freed at 11 s, and reported at 12 s; half of
  // them is reported again at 13 s.
  void WriteOneBlock() {
    ClearTrace();
    Alloc(10.0, kFirst, 10);
    Free(11.0, kFirst, 10);
    WriteTrace();
    const uint64_t gpa = kFirst * kPageSize;
    Write("reports.csv",
          absl::StrFormat("time_s,gpa,bytes\n12.0,0x%x,%d\n13.0,0x%x,%d\n", gpa,
                          4 * kMiB, gpa, 2 * kMiB));
  }

  std::string path() const { return folder_.string(); }
  CompareOptions Options() const {
    return {.policies = {"linux"}, .workloads = {path()}};
  }

 private:
  static constexpr uint64_t kPages = 0x20000;
};

std::vector<std::string> PoliciesOf(const CompareResult& result) {
  std::vector<std::string> policies;
  for (const CompareRow& row : result.rows) policies.push_back(row.policy);
  return policies;
}

// The footprint of `mib` MiB held for `seconds`.
double GibMinutesOf(double mib, double seconds) {
  return mib / 1024 * seconds / 60;
}

TEST_F(CompareRecordingTest, RowsAreWhatTheRecordingSays) {
  WriteOneBlock();
  const CompareResult result = RunOk(Options());
  ASSERT_THAT(PoliciesOf(result), ElementsAre("off", "linux", "real", "limit"));
  for (const CompareRow& row : result.rows) {
    EXPECT_EQ(row.workload, path());
    EXPECT_EQ(row.work, std::nullopt);
    EXPECT_EQ(row.work_share_of_off, std::nullopt);
    EXPECT_FALSE(row.loss.has_value());
    EXPECT_EQ(row.lock_max_us, std::nullopt);
    EXPECT_EQ(row.time_to_50_s, std::nullopt);
    EXPECT_EQ(row.failed_while_isolated, std::nullopt);
  }

  const CompareRow& off = RowOf(result, "off");
  EXPECT_DOUBLE_EQ(off.footprint_gib_min, GibMinutesOf(4, 10));
  EXPECT_DOUBLE_EQ(*off.host_share_of_free, 508.0 / 512);
  EXPECT_DOUBLE_EQ(*off.host_share_of_reportable, 508.0 / 512);
  EXPECT_EQ(off.reported_over_needed, std::nullopt);
  EXPECT_EQ(off.reports, 0u);

  const CompareRow& linux = RowOf(result, "linux");
  EXPECT_EQ(linux.host_share_of_free, 1);
  EXPECT_EQ(linux.reported_over_needed, 1);
  EXPECT_EQ(linux.reports, 1u);
  EXPECT_EQ(linux.kicks, 1u);
  EXPECT_EQ(linux.discard_calls, 1u);
  // The reporter was at rest: its pass is two seconds after the free.
  EXPECT_NEAR(linux.footprint_gib_min, GibMinutesOf(4, 3), 1e-6);

  const CompareRow& real = RowOf(result, "real");
  EXPECT_EQ(real.host_share_of_free, 1);
  EXPECT_EQ(real.host_share_of_reportable, 1);
  EXPECT_DOUBLE_EQ(*real.reported_over_needed, 6.0 / 4);
  EXPECT_DOUBLE_EQ(real.footprint_gib_min, GibMinutesOf(4, 2));
  EXPECT_EQ(real.refaults_1s, 0u);
  EXPECT_EQ(real.reports, std::nullopt);
  EXPECT_EQ(real.kicks, std::nullopt);
  EXPECT_EQ(real.discard_calls, 2u);

  EXPECT_DOUBLE_EQ(RowOf(result, "limit").footprint_gib_min,
                   GibMinutesOf(4, 1));

  ASSERT_EQ(result.recordings.size(), 1u);
  EXPECT_EQ(result.recordings[0].workload, path());
  EXPECT_EQ(result.recordings[0].guest_bytes, 512 * kMiB);
  EXPECT_EQ(result.recordings[0].duration_seconds, 10);
  EXPECT_EQ(result.recordings[0].counters.events, 2u);
  // A sample a second, those of off first.
  ASSERT_EQ(result.samples.size(), 3u * 11);
  EXPECT_EQ(result.samples[5].seconds, 5);
  EXPECT_EQ(result.samples[5].resident_bytes, 4 * kMiB);
  EXPECT_EQ(result.samples[5].free_bytes, 512 * kMiB);
}

TEST_F(CompareRecordingTest, WithoutReportsThereIsNoRowReal) {
  WriteOneBlock();
  fs::remove(folder_ / "reports.csv");
  EXPECT_THAT(PoliciesOf(RunOk(Options())),
              ElementsAre("off", "linux", "limit"));
}

TEST_F(CompareRecordingTest, TheDefaultGranuleIs2MiB) {
  Alloc(10.0, kFirst, 0);
  WriteTrace();
  CompareOptions options = Options();
  EXPECT_DOUBLE_EQ(RunOk(options).rows[0].footprint_gib_min,
                   GibMinutesOf(2, 10));
  options.granule = Order(0);
  EXPECT_DOUBLE_EQ(RunOk(options).rows[0].footprint_gib_min,
                   GibMinutesOf(1.0 / 256, 10));
}

TEST_F(CompareRecordingTest, DoesNotRestByDefault) {
  WriteOneBlock();
  Write("window.csv", "start_s,end_s\n10.0,11.5\n");
  CompareOptions options = Options();
  EXPECT_EQ(RowOf(RunOk(options), "linux").reports, 0u);
  options.rest_seconds = 5;
  const CompareResult result = RunOk(options);
  EXPECT_EQ(RowOf(result, "linux").reports, 1u);
  EXPECT_EQ(RowOf(result, "real").discard_calls, 0u) << "in its own time";
  EXPECT_DOUBLE_EQ(RowOf(result, "off").footprint_gib_min,
                   GibMinutesOf(4, 6.5));
  EXPECT_EQ(result.recordings[0].duration_seconds, 1.5);
}

TEST_F(CompareRecordingTest, StandsBesideOtherWorkloads) {
  WriteOneBlock();
  CompareOptions options = Options();
  options.workloads = {"burst", path(), path() + "/trace.txt"};
  options.guest_bytes = 128 * kMiB;
  options.vcpus = 1;
  options.duration_seconds = 2;
  const CompareResult result = RunOk(options);
  ASSERT_EQ(result.rows.size(), 3u + 4 + 4);
  EXPECT_EQ(result.rows[2].policy, "limit");
  EXPECT_GT(result.rows[0].work, 0u);
  EXPECT_EQ(result.rows[3].workload, path());
  EXPECT_EQ(result.rows[7].workload, path() + "/trace.txt");
  EXPECT_EQ(result.rows[3].footprint_gib_min, result.rows[7].footprint_gib_min);

  const auto config =
      nlohmann::json::parse(CompareSummaryJson(result))["config"];
  EXPECT_EQ(config["granule_bytes"], 4096);
  EXPECT_EQ(config["rest_s"], 60);
  EXPECT_EQ(config["workloads"]["burst"]["guest_bytes"], 128 * kMiB);
  const auto& recording = config["workloads"][path()];
  EXPECT_EQ(recording["guest_bytes"], 512 * kMiB);
  EXPECT_EQ(recording["duration_s"], 10);
  EXPECT_EQ(recording["granule_bytes"], 2 * kMiB);
  EXPECT_EQ(recording["rest_s"], 0);
  EXPECT_EQ(recording["events"], 2);
}

TEST_F(CompareRecordingTest, FilesAreTheSameAndAreReadAsTheyWereWritten) {
  WriteOneBlock();
  const auto files = [](const CompareResult& result) {
    return CompareSummaryJson(result) + CompareSeriesCsv(result);
  };
  CompareOptions options = Options();
  options.policies = {"v12", "linux", "adaptive"};
  const CompareResult result = RunOk(options);
  EXPECT_EQ(files(RunOk(options)), files(result));
  CompareResult read = result;
  read.rows = ParseCompareSummary("a.json", CompareSummaryJson(result)).value();
  read.samples = ParseCompareSeries("a.csv", CompareSeriesCsv(result)).value();
  EXPECT_EQ(files(read), files(result));
  EXPECT_EQ(RowOf(read, "real").discard_calls, 2u);
  const auto config =
      nlohmann::json::parse(CompareSummaryJson(result))["config"];
  EXPECT_EQ(config["granule_bytes"], 2 * kMiB) << "there is no other";
  EXPECT_EQ(config["policy_parameters"]["adaptive"]["granule"], 9);
}

TEST_F(CompareRecordingTest, APathMayBeOfAnyBytes) {
  WriteOneBlock();
  fs::create_directory(folder_ / "\xff");
  CompareOptions options = Options();
  options.workloads = {path() + "/\xff/.."};
  const CompareResult result = RunOk(options);
  const std::string summary = CompareSummaryJson(result);
  EXPECT_THAT(summary, HasSubstr("\uFFFD/..\""));
  EXPECT_EQ(ParseCompareSummary("a.json", summary).status(), absl::OkStatus());
}

TEST_F(CompareRecordingTest, NamesWhatIsWrongInTheOptions) {
  EXPECT_THAT(ErrorOf({.workloads = {"nap"}}),
              HasSubstr("sandbox, or a recording's path with a / in it"));
  EXPECT_EQ(ErrorOf({.workloads = {"./a", "burst", "./a"}}),
            "--workloads=./a: must be named once");
  EXPECT_EQ(ErrorOf({.workloads = {"./a,b"}}),
            "--workloads=./a,b: must be a path without commas and line "
            "breaks");
  EXPECT_EQ(ErrorOf({.workloads = {"./a"}, .mode = CompareMode::kReal}),
            "--workloads=./a: must be a workload by name in real time; a "
            "recording is replayed by guestmm replay --real");
  EXPECT_EQ(
      ErrorOf({.workloads = {"./a"}, .kernel = KernelVersion::kV5_3}),
      "--kernel=5.3: must be unset without a workload by name; a recording "
      "has its own");
  EXPECT_EQ(ErrorOf({.workloads = {"./a"}, .guest_bytes = kGiB}),
            "--guest-memory=1GiB: must be unset without a workload by name; "
            "a recording has its own");
  EXPECT_EQ(ErrorOf({.workloads = {"./a"}, .vcpus = 2}),
            "--vcpus=2: must be unset without a workload by name; a recording "
            "has its own");
  EXPECT_EQ(ErrorOf({.workloads = {"./a"}, .duration_seconds = 2}),
            "--duration=2: must be unset without a workload by name; a "
            "recording has its own");
}

// The first 128 KiB of a block of 2 MiB are freed, and come back on every host:
// of 480 pages that stay, each takes what the host maps with it.
TEST_F(CompareRecordingTest, AnOrderBelowTheGranuleSplitsIt) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst, 5);
  WriteTrace();
  CompareOptions options = Options();
  options.policies = {"v12:threshold=1", "linux", "adaptive"};
  options.policy_parameters = {{"order", "5"}};
  options.rest_seconds = 30;
  for (const Order granule : {Order(0), Order(4), kPageblockOrder}) {
    options.granule = granule;
    const CompareResult result = RunOk(options);
    EXPECT_EQ(result.samples.back().resident_bytes, 480 * kPageSize);
    for (const char* const policy : {"v12:threshold=1", "linux", "adaptive"}) {
      EXPECT_EQ(RowOf(result, policy).host_share_of_free, 1) << policy;
    }
  }
}

TEST_F(CompareRecordingTest, NamesWhatIsWrongInTheRecording) {
  CompareOptions options = Options();
  EXPECT_THAT(TryCompare(options).status().ToString(),
              HasSubstr(path() + ": must have a trace: trace.gmtrace"));
  options.workloads = {path() + "/none"};
  EXPECT_EQ(
      TryCompare(options).status(),
      absl::NotFoundError(path() + "/none: must be a trace or a recording's "
                                   "folder; none is there"));
  WriteOneBlock();
  options = Options();
  Write("window.csv", "from,to\n");
  EXPECT_THAT(TryCompare(options).status().ToString(),
              HasSubstr(path() + "/window.csv:1: "));
  fs::remove(folder_ / "window.csv");
  ClearTrace();
  Alloc(10.0, kFirst, 10);
  AddDamage();
  WriteTrace();
  EXPECT_THAT(TryCompare(options).status().ToString(),
              HasSubstr(path() + ", off: " + path() + "/trace.txt:2: "));
  WriteOneBlock();
  fs::remove(folder_ / "iomem");
  EXPECT_THAT(TryCompare(options).status().ToString(),
              HasSubstr(path() + ", off: the recording must have a memory map "
                                 "(iomem)"));
}

}  // namespace
}  // namespace guestmm::compare_recording_test
