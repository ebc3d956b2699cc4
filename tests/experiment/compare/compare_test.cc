#include "guestmm/experiment/compare/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "guestmm/workload/recipes.h"
#include "nlohmann/json.hpp"
#include "tests/experiment/compare/planted_policies.h"

namespace guestmm::compare_test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class CompareTest : public testing::Test {
 protected:
  CompareTest() { RegisterPlantedPolicies(); }

  // A guest of 128 MiB that runs for 4 s and rests for 5 s.
  static CompareOptions Small(std::string workload) {
    return {.policies = {"v12"},
            .workloads = {std::move(workload)},
            .policy_parameters = {{"threshold", "2"}},
            .guest_bytes = 128 * kMiB,
            .vcpus = 1,
            .duration_seconds = 4,
            .rest_seconds = 5};
  }

  static CompareResult RunOk(const CompareOptions& options) {
    const auto resolved = ResolveCompare(options, kTiB);
    EXPECT_EQ(resolved.status(), absl::OkStatus());
    absl::StatusOr<CompareResult> result = RunCompare(*resolved, {});
    EXPECT_EQ(result.status(), absl::OkStatus());
    return *std::move(result);
  }

  static const CompareRow& RowOf(const CompareResult& result,
                                 std::string_view policy) {
    const auto row = std::find_if(
        result.rows.begin(), result.rows.end(),
        [&](const CompareRow& each) { return each.policy == policy; });
    EXPECT_NE(row, result.rows.end()) << policy;
    return *row;
  }
};

// Both files of a result in virtual time, without host and versions.
std::string Files(const CompareResult& result) {
  auto summary = nlohmann::ordered_json::parse(CompareSummaryJson(result));
  summary.erase("host");
  summary.erase("versions");
  return summary.dump() + CompareSeriesCsv(result);
}

TEST_F(CompareTest, EachWorkloadRunsUnderEachPolicyAndTheLimit) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    SCOPED_TRACE(workload.name);
    CompareOptions options = Small(workload.name);
    // A second of page_fault1 takes as long as a minute of the others.
    if (workload.warmup_seconds > 0) options.duration_seconds = 0.2;
    const CompareResult result = RunOk(options);
    ASSERT_EQ(result.rows.size(), 3u);
    const CompareRow& off = result.rows[0];
    EXPECT_EQ(off.policy, "off");
    EXPECT_GT(off.work, 0u);
    EXPECT_EQ(off.work_share_of_off, 1);
    EXPECT_EQ(off.reports, 0u);
    EXPECT_EQ(off.reported_over_needed, std::nullopt);
    EXPECT_EQ(off.time_to_50_s, std::nullopt);

    EXPECT_DOUBLE_EQ(
        *off.duration_seconds,
        *options.duration_seconds *
            (1 - workload.warmup_seconds / workload.duration_seconds));

    const CompareRow& v12 = result.rows[1];
    EXPECT_EQ(v12.policy, "v12");
    EXPECT_EQ(v12.work, off.work);
    EXPECT_DOUBLE_EQ(*v12.work_share_of_off,
                     *off.duration_seconds / *v12.duration_seconds);
    EXPECT_EQ(v12.kicks, v12.reports);

    const CompareRow& limit = result.rows[2];
    EXPECT_EQ(limit.policy, "limit");
    EXPECT_EQ(limit.work, std::nullopt);
    EXPECT_EQ(limit.duration_seconds, std::nullopt);
  }
}

TEST_F(CompareTest, NoRunHasAFootprintUnderTheLimit) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE(testing::Message() << workload.name << " " << seed);
      CompareOptions options = Small(workload.name);
      options.policies = {"adaptive", "sweeping"};
      options.policy_parameters = {};
      options.seed = seed;
      options.guest_bytes = seed * 80 * kMiB;
      options.vcpus = seed;
      options.duration_seconds = workload.warmup_seconds > 0 ? 0.2 : 2;
      const CompareResult result = RunOk(options);
      const double limit = RowOf(result, "limit").footprint_gib_min;
      EXPECT_GT(limit, 0);
      for (const CompareRow& row : result.rows) {
        EXPECT_GE(row.footprint_gib_min, limit) << row.policy;
      }
    }
  }
}

// Under eager each step takes several times as long.
TEST_F(CompareTest, ARunEndsWithItsWorkAndNotByTheClock) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"eager"};
  options.policy_parameters = {};
  options.guest_bytes = kGiB;  // enough that no allocation fails
  options.vcpus = 2;
  options.duration_seconds = 0.5;
  const CompareResult result = RunOk(options);
  EXPECT_EQ(RowOf(result, "eager").work, RowOf(result, "off").work);
  EXPECT_GT(*RowOf(result, "eager").duration_seconds,
            2 * *RowOf(result, "off").duration_seconds);
}

TEST_F(CompareTest, ARunThatIsTooSlowEndsWithLessWork) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"eager"};
  options.policy_parameters = {};
  options.duration_seconds = 0.5;
  options.costs.hook_freed = 1'000'000;
  const CompareResult result = RunOk(options);
  const CompareRow& eager = RowOf(result, "eager");
  EXPECT_LT(*eager.work, *RowOf(result, "off").work);
  EXPECT_LT(*eager.work_share_of_off, 0.1);
  EXPECT_GE(eager.footprint_gib_min, RowOf(result, "limit").footprint_gib_min);
}

TEST_F(CompareTest, MemoryThatIsReportedComesBackAndCosts) {
  const CompareResult result = RunOk(Small("burst"));
  const CompareRow& off = RowOf(result, "off");
  const CompareRow& v12 = RowOf(result, "v12");
  EXPECT_LT(*off.host_share_of_free, 0.5);
  EXPECT_GT(*v12.host_share_of_free, 0.8);
  EXPECT_LT(v12.footprint_gib_min, off.footprint_gib_min * 0.6);
  EXPECT_GE(*v12.discard_calls, 1u);
  EXPECT_GT(*v12.lock_max_us, 0);
  EXPECT_LE(*v12.lock_mean_us, *v12.lock_max_us);
  EXPECT_GT(v12.loss->isolation + v12.loss->discard, 0);
}

TEST_F(CompareTest, TheSameSeedGivesTheSameResult) {
  for (const char* workload : {"burst", "churn", "build", "page_cache"}) {
    CompareOptions options = Small(workload);
    options.vcpus = 2;
    const std::string first = Files(RunOk(options));
    EXPECT_EQ(Files(RunOk(options)), first) << workload;
    options.seed = 2;
    EXPECT_NE(Files(RunOk(options)), first) << workload;
  }
}

// Known faults are shown ------------------------------------------------------

TEST_F(CompareTest, ShowsThatReportingEveryPageAtOnceCostsWork) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"sweeping", "eager"};
  options.policy_parameters = {};
  options.duration_seconds = 2;
  const CompareResult result = RunOk(options);
  // It reports once a second, and only what is free at that instant.
  EXPECT_GT(*RowOf(result, "sweeping").work_share_of_off, 0.9);
  EXPECT_LT(*RowOf(result, "eager").work_share_of_off, 0.8);
  EXPECT_GT(*RowOf(result, "eager").refaults_1s,
            *RowOf(result, "sweeping").refaults_1s);
}

TEST_F(CompareTest, ShowsBlocksThatAreNeverReported) {
  CompareOptions options = Small("burst");
  options.policies = {"sweeping", "forgetful"};
  options.policy_parameters = {};
  const CompareResult result = RunOk(options);
  EXPECT_EQ(RowOf(result, "sweeping").host_share_of_reportable, 1);
  EXPECT_LT(*RowOf(result, "forgetful").host_share_of_reportable, 0.99);
}

TEST_F(CompareTest, ShowsBlocksThatAreReportedAgain) {
  CompareOptions options = Small("burst");
  options.policies = {"sweeping", "repeating"};
  options.policy_parameters = {};
  const CompareResult result = RunOk(options);
  EXPECT_LT(*RowOf(result, "sweeping").reported_over_needed, 1.1);
  EXPECT_GT(*RowOf(result, "repeating").reported_over_needed, 2);
}

// If the host maps huge pages, touching one page makes 2 MiB resident.
TEST_F(CompareTest, TheGranuleIsTheHosts) {
  CompareOptions options = Small("fragmenter");
  const CompareResult small = RunOk(options);
  options.granule = kPageblockOrder;
  const CompareResult huge = RunOk(options);
  EXPECT_GT(RowOf(huge, "v12").footprint_gib_min,
            RowOf(small, "v12").footprint_gib_min);
}

TEST_F(CompareTest, CostsAreThoseOfTheModel) {
  CompareOptions options = Small("page_fault1");
  options.duration_seconds = 0.2;
  const CompareResult cheap = RunOk(options);
  options.costs.guest_fault *= 10;
  const CompareResult dear = RunOk(options);
  EXPECT_LT(*dear.rows[0].work, *cheap.rows[0].work / 2);
}

// Real time -------------------------------------------------------------------

TEST_F(CompareTest, RunsForReal) {
  CompareOptions options = Small("burst");
  options.mode = CompareMode::kReal;
  options.duration_seconds = 0.5;
  options.rest_seconds = 0.2;
  options.repeats = 2;
  const CompareResult result = RunOk(options);
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_GT(*RowOf(result, "off").work, 0u);
  // How much is done in half a second depends on the machine.
  EXPECT_TRUE(RowOf(result, "v12").reports.has_value());
  EXPECT_EQ(RowOf(result, "v12").loss, std::nullopt);
  EXPECT_GT(RowOf(result, "off").footprint_gib_min, 0);
  EXPECT_EQ(result.samples.back().repeat, 2u);
}

TEST_F(CompareTest, APolicyHasTheGranuleOfItsHost) {
  for (const CompareMode mode : {CompareMode::kVirtual, CompareMode::kReal}) {
    for (const Order granule : {Order(0), kPageblockOrder}) {
      CompareOptions options = Small("burst");
      options.policies = {"observed"};
      options.policy_parameters = {};
      options.mode = mode;
      options.granule = granule;
      options.duration_seconds = 0;
      options.rest_seconds = 0;
      options.repeats = 1;
      const auto resolved = ResolveCompare(options, kTiB);
      ASSERT_EQ(resolved.status(), absl::OkStatus());
      ObservedGranule().reset();
      EXPECT_EQ(RunCompare(*resolved, {}).status(), absl::OkStatus());
      EXPECT_EQ(ObservedGranule(), granule);
    }
  }
}

TEST_F(CompareTest, SharesAndSamplesOfARealRunAreMeasuredByTheKernel) {
  CompareOptions options = Small("burst");
  options.mode = CompareMode::kReal;
  options.policies = {"off"};
  options.policy_parameters = {};
  options.duration_seconds = 0.1;
  options.rest_seconds = 0;
  options.repeats = 1;
  // How soon something is freed depends on the machine.
  double with_guest = 0;
  while (with_guest == 0) {
    *options.duration_seconds *= 2;
    const CompareResult result = RunOk(options);
    const CompareSample& last = result.samples.back();
    with_guest = 1 - *RowOf(result, "off").host_share_of_free;
    EXPECT_LE(with_guest * static_cast<double>(last.free_bytes),
              static_cast<double>(last.resident_bytes) + 0.5);
  }
}

// Files -----------------------------------------------------------------------

TEST_F(CompareTest, SummaryKeepsItsContract) {
  CompareOptions options = Small("burst");
  options.seed = 42;
  const nlohmann::json summary =
      nlohmann::json::parse(CompareSummaryJson(RunOk(options)));
  EXPECT_EQ(summary["schema_version"], 1);
  EXPECT_EQ(summary["experiment"], "compare");
  EXPECT_EQ(summary["mode"], "virtual");
  EXPECT_EQ(summary["seed"], 42);
  EXPECT_EQ(summary["config"]["policies"], nlohmann::json({"off", "v12"}));
  EXPECT_EQ(summary["config"]["workloads"]["burst"]["guest_bytes"], 128 * kMiB);
  EXPECT_EQ(summary["config"]["policy_parameters"]["v12"]["threshold"], 2);
  EXPECT_EQ(summary["config"]["costs_ns"]["exit"], CostModel().exit);
  EXPECT_EQ(summary["config"]["granule_bytes"], 4096);
  EXPECT_EQ(summary["config"]["processes"], 1);
  EXPECT_TRUE(summary["versions"]["guestmm"].is_string());
  EXPECT_GT(summary["host"]["memory_bytes"], 0);
  ASSERT_EQ(summary["rows"].size(), 3u);
  for (const auto& row : summary["rows"]) {
    for (const char* key : {"workload",
                            "mechanism",
                            "policy",
                            "host_share_of_free",
                            "host_share_of_reportable",
                            "time_to_50_s",
                            "time_to_90_s",
                            "time_to_99_s",
                            "footprint_gib_min",
                            "reported_over_needed",
                            "refaults_1s",
                            "reports",
                            "kicks",
                            "discard_calls",
                            "lock_max_us",
                            "lock_mean_us",
                            "failed_while_isolated",
                            "work",
                            "duration_seconds",
                            "work_share_of_off",
                            "work_share_of_off_min",
                            "work_share_of_off_max"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
  }
  EXPECT_TRUE(summary["rows"][2]["work"].is_null());
  EXPECT_EQ(summary["rows"][0]["mechanism"], "off");
  EXPECT_EQ(summary["rows"][1]["mechanism"], "reporting:v12");
  EXPECT_EQ(summary["rows"][1]["policy"], "v12");
  EXPECT_EQ(summary["rows"][2]["mechanism"], "limit");
  EXPECT_EQ(summary["rows"][2]["policy"], "limit");
}

TEST_F(CompareTest, TwoSettingsOfOnePolicyStandSideBySide) {
  CompareOptions options = Small("burst");
  options.policies = {};
  options.policy_parameters = {};
  options.mechanisms = {"reporting:linux:order=9", "reporting:linux:order=5"};
  const CompareResult result = RunOk(options);
  const std::string summary = CompareSummaryJson(result);
  const nlohmann::json json = nlohmann::json::parse(summary);
  EXPECT_EQ(json["config"]["policies"],
            nlohmann::json({"off", "linux:order=9", "linux:order=5"}));
  ASSERT_EQ(json["rows"].size(), 4u);
  for (const int order : {9, 5}) {
    const nlohmann::json& row = json["rows"][order == 9 ? 1 : 2];
    const std::string policy = "linux:order=" + std::to_string(order);
    EXPECT_EQ(row["mechanism"], "reporting:" + policy);
    EXPECT_EQ(row["policy"], "linux");
    EXPECT_EQ(json["config"]["policy_parameters"][policy]["order"], order);
  }
  // Blocks of order 5 are reported beside those of order 9.
  EXPECT_GT(*RowOf(result, "linux:order=5").host_share_of_free,
            *RowOf(result, "linux:order=9").host_share_of_free);
  EXPECT_THAT(CompareSeriesCsv(result), HasSubstr("\nburst,linux:order=5,1,"));
  EXPECT_EQ(ParseCompareSummary("a.json", summary)->at(2).policy,
            "linux:order=5");
}

TEST_F(CompareTest, MechanismsAreThePoliciesOfReporting) {
  CompareOptions options = Small("burst");
  const auto as_policies = ResolveCompare(options, kTiB);
  options.policies = {};
  options.mechanisms = {"reporting:v12"};
  const auto as_mechanisms = ResolveCompare(options, kTiB);
  ASSERT_EQ(as_mechanisms.status(), absl::OkStatus());
  EXPECT_EQ(as_mechanisms->policies, as_policies->policies);
  EXPECT_THAT(as_mechanisms->mechanisms, testing::IsEmpty());
}

TEST_F(CompareTest, FilesAreReadAsTheyWereWritten) {
  CompareOptions options = Small("burst");
  options.policies = {"sweeping"};
  options.policy_parameters = {};
  const CompareResult result = RunOk(options);
  CompareResult read = result;
  const auto rows =
      ParseCompareSummary("summary.json", CompareSummaryJson(result));
  ASSERT_EQ(rows.status(), absl::OkStatus());
  read.rows = *rows;
  EXPECT_EQ(CompareSummaryJson(read), CompareSummaryJson(result));
  EXPECT_EQ(RowOf(read, "sweeping").reports, RowOf(result, "sweeping").reports);
  EXPECT_EQ(RowOf(read, "limit").work, std::nullopt);
  EXPECT_TRUE(RowOf(read, "sweeping").loss.has_value());

  const auto samples =
      ParseCompareSeries("series.csv", CompareSeriesCsv(result));
  ASSERT_EQ(samples.status(), absl::OkStatus());
  ASSERT_EQ(samples->size(), result.samples.size());
  read.samples = *samples;
  EXPECT_EQ(CompareSeriesCsv(read), CompareSeriesCsv(result));
}

// The error of parsing the summary of `result` after `change`.
std::string ErrorAfter(
    const CompareResult& result,
    const std::function<void(nlohmann::ordered_json&)>& change) {
  auto json = nlohmann::ordered_json::parse(CompareSummaryJson(result));
  change(json);
  const absl::Status status =
      ParseCompareSummary("a.json", json.dump()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST_F(CompareTest, NamesTheFileAndTheFieldThatCannotBeRead) {
  const CompareResult result = RunOk(Small("burst"));
  using Json = nlohmann::ordered_json;
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json = nullptr; }),
            "a.json: must be a JSON object");
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json["schema_version"] = 2; }),
            "a.json: experiment and schema_version: must be \"compare\" and 1");
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json.erase("rows"); }),
            "a.json: rows: must be an array");
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json["rows"][2] = 1; }),
            "a.json: rows[2]: must be an object");
  EXPECT_EQ(
      ErrorAfter(result, [](Json& json) { json["rows"][0].erase("work"); }),
      "a.json: rows[0].work: must be present");
  EXPECT_EQ(
      ErrorAfter(result, [](Json& json) { json["rows"][1]["work"] = -1; }),
      "a.json: rows[1].work=-1: must be a whole number or null");
  EXPECT_EQ(
      ErrorAfter(result,
                 [](Json& json) { json["rows"][1]["mechanism"] = nullptr; }),
      "a.json: rows[1].mechanism=null: must be a string");
  EXPECT_EQ(ErrorAfter(result,
                       [](Json& json) {
                         json["rows"][1]["footprint_gib_min"] = nullptr;
                       }),
            "a.json: rows[1].footprint_gib_min=null: must be a number");
  EXPECT_EQ(
      ErrorAfter(result,
                 [](Json& json) { json["rows"][1]["loss"]["hook"] = "much"; }),
      "a.json: rows[1].loss.hook=\"much\": must be a number");
  EXPECT_EQ(ParseCompareSummary("a.json", "{").status().message(),
            "a.json: must be a JSON object");

  EXPECT_THAT(std::string(ParseCompareSeries("a.csv", "").status().message()),
              StartsWith("a.csv: line 1: must be workload,policy,"));
  EXPECT_THAT(std::string(ParseCompareSeries(
                              "a.csv", CompareSeriesCsv(result) + "burst,1\n")
                              .status()
                              .message()),
              StartsWith("a.csv: line 22: must be workload,"));
}

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

TEST_F(CompareTest, SeveralProcessesAreMediansAndASpread) {
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

TEST_F(CompareTest, NamesTheProcessThatFailed) {
  const auto resolved =
      ResolveCompare({.mode = CompareMode::kReal, .processes = 2}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  int runs = 0;
  EXPECT_EQ(RunCompare(*resolved, {.run_process =
                                       [&]() -> absl::StatusOr<CompareProcess> {
              if (++runs == 1) return ProcessWithShare(1);
              return absl::InvalidArgumentError("is wrong");
            }}).status(),
            absl::InternalError("process 2 of 2: is wrong"));
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

TEST_F(CompareTest, QuotesAProcessThatCannotBeRun) {
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

TEST_F(CompareTest, SeriesHasARowForEachSecond) {
  const CompareResult result = RunOk(Small("burst"));
  const std::string csv = CompareSeriesCsv(result);
  EXPECT_THAT(csv, StartsWith("workload,policy,repeat,seconds,resident_bytes,"
                              "free_bytes,host_share_of_free\n"
                              "burst,off,1,0.000,"));
  // 0 to 9 s, twice.
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 21);
}

TEST_F(CompareTest, ReportsProgress) {
  const auto resolved = ResolveCompare(Small("burst"), kTiB);
  double last = 0;
  ASSERT_EQ(RunCompare(*resolved, {.progress =
                                       [&](const CompareProgress& progress) {
                                         EXPECT_EQ(progress.workload, "burst");
                                         EXPECT_EQ(progress.process, 0u);
                                         EXPECT_EQ(progress.whole, 2);
                                         EXPECT_LE(progress.done,
                                                   progress.whole);
                                         last = progress.done;
                                       }})
                .status(),
            absl::OkStatus());
  EXPECT_GT(last, 0);
}

// Options ---------------------------------------------------------------------

TEST_F(CompareTest, DefaultsAreEveryPolicyAndTheDefaultWorkloads) {
  const auto resolved = ResolveCompare({}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  EXPECT_EQ(resolved->policies.front(), "off");
  EXPECT_THAT(resolved->policies, testing::Contains("v12"));
  EXPECT_THAT(resolved->policies, testing::Contains("eager"));
  EXPECT_THAT(resolved->workloads, testing::Contains("sandbox"));
  EXPECT_EQ(RestSecondsOf(*resolved, "burst"), 60);
  EXPECT_EQ(resolved->reportable_order, kPageblockOrder);
  const auto real = ResolveCompare({.mode = CompareMode::kReal}, kTiB);
  EXPECT_THAT(real->workloads, testing::ElementsAre("page_fault1"));
}

std::string ErrorOf(const CompareOptions& options,
                    uint64_t available_bytes = kTiB) {
  const absl::Status status = ResolveCompare(options, available_bytes).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST_F(CompareTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf({.policies = {"v13"}}),
              StartsWith("--policies=v13: must be one of off, v12, "));
  EXPECT_EQ(ErrorOf({.policies = {"v12", "v12"}}),
            "--policies=v12: must be given once");
  EXPECT_THAT(ErrorOf({.workloads = {""}}),
              StartsWith("--workloads=\"\": must be one of page_fault1, "));
  EXPECT_EQ(ErrorOf({.workloads = {"burst", "burst"}}),
            "--workloads=burst: must be named once");
  EXPECT_EQ(ErrorOf({.policy_parameters = {{"capacity", "0"}}}),
            "--capacity=0: must be 1 to 1024 for v12");
  EXPECT_EQ(ErrorOf({.reportable_order = Order(11)}),
            "--reportable-order=11: must be 0 to 10");
  EXPECT_EQ(ErrorOf({.granule = Order(1)}),
            "--granule=8.00 KiB: must be 4KiB or 2MiB");
  EXPECT_EQ(ErrorOf({.guest_bytes = kMiB}),
            "--guest-memory=1.00 MiB: must be 64.00 MiB to 1.00 TiB");
  EXPECT_EQ(ErrorOf({.vcpus = 0}), "--vcpus=0: must be 1 to 64");
  EXPECT_EQ(ErrorOf({.duration_seconds = -1}),
            "--duration=-1: must be 0 to 3600 seconds");
  EXPECT_EQ(ErrorOf({.rest_seconds = 1e9}),
            "--rest=1e+09: must be 0 to 3600 seconds");
  EXPECT_EQ(ErrorOf({.repeats = 0}), "--repeats=0: must be 1 to 1000");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal, .processes = 101}),
            "--processes=101: must be 1 to 100");
  EXPECT_EQ(ErrorOf({.processes = 2}),
            "--processes=2: must be 1 in virtual time; runs are deterministic");
  EXPECT_EQ(
      ErrorOf({.workloads = {"page_fault1-60g"}, .mode = CompareMode::kReal}),
      "--workloads=page_fault1-60g: must have one node in real time; it has "
      "2");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal}, kGiB),
            "--workloads=page_fault1: must fit in the memory that this machine "
            "has available, 1.00 GiB; in real time it needs 2.25 GiB");
}

TEST_F(CompareTest, NamesTheMechanismThatIsWrong) {
  EXPECT_EQ(ErrorOf({.mechanisms = {"off", "foo"}}),
            "--mechanisms=foo: must be one of off, limit, real, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {"limit"}}),
            "--mechanisms=limit: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {""}}),
            "--mechanisms=\"\": must be one or more mechanisms, separated by "
            "commas");
  EXPECT_EQ(ErrorOf({.mechanisms = {"off", "off"}}),
            "--mechanisms=off: must be given once");
  EXPECT_THAT(ErrorOf({.mechanisms = {"reporting:v13"}}),
              StartsWith("--mechanisms=reporting:v13: the policy must be one "
                         "of v12, "));
  EXPECT_EQ(ErrorOf({.mechanisms = {"reporting:linux:order=11"}}),
            "--mechanisms=reporting:linux:order=11: order must be 0 to 10");
  EXPECT_EQ(ErrorOf({.mechanisms = {"reporting:linux"},
                     .policy_parameters = {{"threshold", "2"}}}),
            "--threshold=2: must be given with a policy that has it: v12, "
            "v12-hotplug");
  EXPECT_EQ(ErrorOf({.policies = {"v12"}, .mechanisms = {"off"}}),
            "--mechanisms=off: must be unset with --policies");
}

}  // namespace
}  // namespace guestmm::compare_test
