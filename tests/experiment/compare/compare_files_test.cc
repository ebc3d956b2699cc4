// The summary and the series that a comparison writes and reads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>

#include "guestmm/experiment/compare/compare.h"
#include "nlohmann/json.hpp"
#include "tests/experiment/compare/compare_testing.h"

namespace guestmm::compare_files_test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

using CompareFilesTest = PlantedCompareTest;

TEST_F(CompareFilesTest, SummaryKeepsItsContract) {
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

// Each option where a reader looks for it, and numbers to the sixth decimal.
TEST_F(CompareFilesTest, TheSummaryHasAllThatRepeatsIt) {
  CompareOptions options = Small("burst");
  options.vcpus = 3;
  options.duration_seconds = 1.0000004;
  options.rest_seconds = 0.123457;
  options.reportable_order = Order(7);
  options.repeats = 6;
  options.costs.exit = 4321;
  CompareResult result;
  result.options = *ResolveCompare(options, kTiB);
  result.run.date = "2024-02-29T23:59:59Z";
  CompareRow row;
  row.workload = "burst";
  row.policy = "v12";
  row.lock_max_us = 0.1234567;
  result.rows = {row};
  const auto summary = nlohmann::json::parse(CompareSummaryJson(result));
  EXPECT_EQ(summary["run"]["date"], "2024-02-29T23:59:59Z");
  const nlohmann::json& config = summary["config"];
  EXPECT_EQ(config["workloads"], nlohmann::json({{"burst",
                                                  {{"guest_bytes", 128 * kMiB},
                                                   {"nodes", 1},
                                                   {"vcpus", 3},
                                                   {"duration_s", 1.0}}}}));
  EXPECT_EQ(config["rest_s"], 0.123457);
  EXPECT_EQ(config["reportable_order"], 7);
  EXPECT_EQ(config["repeats"], 6);
  EXPECT_EQ(config["processes"], 1);
  EXPECT_EQ(config["costs_ns"]["exit"], 4321);
  EXPECT_EQ(summary["rows"][0]["lock_max_us"], 0.123457);
  EXPECT_TRUE(summary["rows"][0]["lock_mean_us"].is_null());
  options.workloads = {"page_fault1-60g"};
  result.options = *ResolveCompare(options, kTiB);
  EXPECT_EQ(nlohmann::json::parse(CompareSummaryJson(
                result))["config"]["workloads"]["page_fault1-60g"]["nodes"],
            2);
}

TEST_F(CompareFilesTest, ASampleIsReadAsItWasWritten) {
  CompareResult result;
  result.options = *ResolveCompare(Small("burst"), kTiB);
  result.samples = {{.workload = "burst",
                     .policy = "v12",
                     .repeat = 2,
                     .seconds = 1.5,
                     .resident_bytes = 3,
                     .free_bytes = 4,
                     .host_share_of_free = 0.25}};
  const std::string csv = CompareSeriesCsv(result);
  EXPECT_EQ(csv.substr(csv.find('\n') + 1),
            "burst,v12,reporting:v12,2,1.500,,3,4,,0.250000\n");
  const auto samples = ParseCompareSeries("a.csv", csv);
  ASSERT_EQ(samples.status(), absl::OkStatus());
  result.samples = *samples;
  EXPECT_EQ(CompareSeriesCsv(result), csv);
}

TEST_F(CompareFilesTest, TwoSettingsOfOnePolicyStandSideBySide) {
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
  EXPECT_THAT(CompareSeriesCsv(result),
              HasSubstr("\nburst,linux:order=5,reporting:linux:order=5,1,"));
  EXPECT_EQ(ParseCompareSummary("a.json", summary)->at(2).policy,
            "linux:order=5");
}

TEST_F(CompareFilesTest, FilesAreReadAsTheyWereWritten) {
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

TEST_F(CompareFilesTest, NamesTheFileAndTheFieldThatCannotBeRead) {
  const CompareResult result = RunOk(Small("burst"));
  using Json = nlohmann::ordered_json;
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json = nullptr; }),
            "a.json: must be a JSON object");
  EXPECT_EQ(ErrorAfter(result, [](Json& json) { json["schema_version"] = 2; }),
            "a.json: experiment and schema_version: must be \"compare\" and 1");
  EXPECT_EQ(
      ErrorAfter(result, [](Json& json) { json["experiment"] = "density"; }),
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

TEST_F(CompareFilesTest, SeriesHasARowForEachSecond) {
  const CompareResult result = RunOk(Small("burst"));
  const std::string csv = CompareSeriesCsv(result);
  EXPECT_THAT(csv, StartsWith("workload,policy,mechanism,repeat,seconds,guests,"
                              "resident_bytes,free_bytes,isolated_bytes,"
                              "host_share_of_free\nburst,off,off,1,0.000,,"));
  // 0 to 9 s, twice.
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 21);
}

}  // namespace
}  // namespace guestmm::compare_files_test
