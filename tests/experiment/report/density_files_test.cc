// The files of a density result whose every number is another.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "guestmm/experiment/density/density.h"
#include "nlohmann/json.hpp"

namespace guestmm::density_files_test {
namespace {

using Json = nlohmann::json;

DensityResult MadeResult() {
  DensityResult result;
  DensitySetup& setup = result.setup;
  setup.options.policies = {"off", "linux:order=5"};
  setup.options.seed = 7;
  setup.guest_bytes = 11;
  setup.host_bytes = 12;
  setup.footprint_bytes = 13;
  setup.workload_min_bytes = 14;
  result.run = {.command = {"guestmm", "density"},
                .date = "2024-02-29T23:59:59Z",
                .wall_seconds = 1.5,
                .inputs = {}};
  result.complete = false;
  result.status = absl::InternalError("out of luck");
  DensityRow row;
  row.policy = "linux:order=5";
  row.guests = 3;
  row.resident_bytes = 21;
  row.reported_bytes = 22;
  row.discarded_bytes = 23;
  row.reports = 24;
  row.discard_calls = 25;
  row.seconds = 2.5;
  row.stopped = "max-guests 3";
  row.launches = {
      {.workload_bytes = 31, .host_peak_bytes = 32, .resident_bytes = 33}};
  DensityRow limit;
  limit.policy = "limit";
  limit.guests = 4;
  result.rows = {row, limit};
  result.samples = {{.policy = "linux:order=5",
                     .seconds = 0.25,
                     .guests = 2,
                     .resident_bytes = 41}};
  return result;
}

TEST(DensityFilesTest, TheSummaryHasEachNumberInItsPlace) {
  const Json summary = Json::parse(DensitySummaryJson(MadeResult()));
  EXPECT_EQ(summary["seed"], 7);
  EXPECT_EQ(summary["complete"], false);
  EXPECT_EQ(summary["error"], "out of luck");
  EXPECT_FALSE(summary.contains("verdict"));
  EXPECT_EQ(summary["run"], Json({{"command", {"guestmm", "density"}},
                                  {"date", "2024-02-29T23:59:59Z"},
                                  {"wall_seconds", 1.5},
                                  {"inputs", Json::array()}}));
  const Json& config = summary["config"];
  EXPECT_EQ(config["guest_bytes"], 11);
  EXPECT_EQ(config["host_bytes"], 12);
  EXPECT_EQ(config["footprint_bytes"], 13);
  EXPECT_EQ(config["workload_min_bytes"], 14);
  ASSERT_EQ(summary["rows"].size(), 2u);
  EXPECT_EQ(summary["rows"][0], Json({{"mechanism", "reporting:linux:order=5"},
                                      {"policy", "linux"},
                                      {"guests", 3},
                                      {"share_of_limit", 0.75},
                                      {"resident_bytes", 21},
                                      {"reported_bytes", 22},
                                      {"discarded_bytes", 23},
                                      {"reports", 24},
                                      {"discard_calls", 25},
                                      {"seconds", 2.5},
                                      {"stopped", "max-guests 3"},
                                      {"launches",
                                       {{{"workload_bytes", 31},
                                         {"host_peak_bytes", 32},
                                         {"resident_bytes", 33}}}}}));
  const Json& limit = summary["rows"][1];
  for (const char* const unset :
       {"discarded_bytes", "reports", "discard_calls", "seconds"}) {
    EXPECT_TRUE(limit[unset].is_null()) << unset;
  }
}

TEST(DensityFilesTest, TheSeriesHasEachNumberInItsColumn) {
  EXPECT_EQ(DensitySeriesCsv(MadeResult()),
            "workload,policy,mechanism,repeat,seconds,guests,resident_bytes,"
            "free_bytes,isolated_bytes,host_share_of_free\n"
            ",linux:order=5,reporting:linux:order=5,,0.250,2,41,,,\n");
}

// A million "a", more than is read at a time; a folder; and what is not there.
TEST(DensityFilesTest, FilesThatWereReadAreNamedByTheirContents) {
  const std::string path = testing::TempDir() + "density_files_a";
  std::ofstream(path) << std::string(1'000'000, 'a');
  DensityResult result = MadeResult();
  result.run.inputs = {path, testing::TempDir(), "/no/such/file"};
  const Json inputs = Json::parse(DensitySummaryJson(result))["run"]["inputs"];
  std::filesystem::remove(path);
  ASSERT_EQ(inputs.size(), 3u);
  EXPECT_EQ(
      inputs[0],
      Json({
          {"path", path},
          {"bytes", 1'000'000},
          {"sha256",
           "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
      }));
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(inputs[i], Json({{"path", result.run.inputs[i]},
                               {"bytes", nullptr},
                               {"sha256", nullptr}}));
  }
}

}  // namespace
}  // namespace guestmm::density_files_test
