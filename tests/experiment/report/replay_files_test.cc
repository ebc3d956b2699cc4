// The files of a replay whose every number is another.

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "guestmm/experiment/report/replay_report.h"
#include "nlohmann/json.hpp"
#include "tests/testing/made_replays.h"

namespace guestmm::replay_files_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Json = nlohmann::json;

// Expects that `json` has all that `part` has.
void ExpectHas(const Json& json, const Json& part) {
  for (const auto& [key, value] : part.items()) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_EQ(json[key], value) << key;
  }
}

ReplayResult MadeResult() {
  ReplayResult result;
  ReplayOptions& options = result.options;
  options.policy = "linux:order=5";
  options.granule = Order(4);
  options.khugepaged = true;
  options.seed = 7;
  options.sample_interval = seconds(2);
  options.tail = seconds(3);
  options.speed = 4;
  options.read.skip_bad = 5;
  options.touch = *ParseTouch("all");
  result.kernel = KernelVersion::kV6_12;
  result.error = "out of luck";
  result.memory_bytes = 1 * kMiB;
  result.counters = {.events = 11,
                     .allocations = 12,
                     .frees = 13,
                     .touched_allocations = 14,
                     .lost_events = 15,
                     .bad_lines = 16,
                     .cut_lines = 17,
                     .unknown_gfp = 18,
                     .late = 19,
                     .late_by = milliseconds(500),
                     .unmatched_frees = 21,
                     .split_frees = 22,
                     .forced_placements = 23,
                     .failed_allocations = 24,
                     .outside_memory = 25,
                     .moves = 26,
                     .unfit_moves = 27};
  result.unmanaged = {
      .uninitialized = 31, .offline = 32, .no_page = 33, .added = 34};
  result.memory_changes = {
      {.time = seconds(11), .range = {Gpa(4096), 8192}, .removed = false},
      {.time = seconds(12), .range = {Gpa(8192), 4096}, .removed = true}};
  result.start = seconds(10);
  result.end = seconds(14);
  result.reported_bytes = 41;
  result.needless_bytes = 42;
  result.passes.resize(3);
  result.free_at_end = {.bytes = 51,
                        .with_host = 52,
                        .fragmented = 53,
                        .below_order = 54,
                        .below_watermark = 55,
                        .not_due = 56};
  // 100 bytes for three seconds and 200 for one.
  for (const auto& [second, bytes] :
       {std::pair(10, 100), {13, 200}, {14, 200}}) {
    ReplaySample sample;
    sample.time = seconds(second);
    sample.resident_bytes = static_cast<uint64_t>(bytes);
    sample.free_bytes = 61;
    sample.isolated_bytes = 62;
    result.samples.push_back(sample);
  }
  return result;
}

Recording MadeTruth() {
  Recording recording;
  recording.trace_path = "made/trace.txt";
  recording.kernel = "6.12.1";
  recording.resident = {{.time = milliseconds(10'500), .bytes = 71}};
  return recording;
}

TEST(ReplayFilesTest, TheSummaryHasEachNumberInItsPlace) {
  ReplaySet set;
  set.results = {MadeResult()};
  set.truth =
      ReplayTruth{.reported_bytes = 81,
                  .needless_bytes = 82,
                  .resident = Residency{.mean_bytes = 83, .end_bytes = 84}};
  const Json summary = Json::parse(ReplaySummaryJson(MadeTruth(), set, {}));
  EXPECT_EQ(summary["seed"], 7);
  ExpectHas(summary["config"], {{"trace", "made/trace.txt"},
                                {"kernel", "6.12"},
                                {"recorded_kernel", "6.12.1"},
                                {"granule_order", 4},
                                {"khugepaged", true},
                                {"touch", "all"},
                                {"sample_interval_s", 2.0},
                                {"tail_s", 3.0},
                                {"skip_bad", 5},
                                {"speed", 4.0}});
  ASSERT_EQ(summary["rows"].size(), 2u);
  ExpectHas(summary["rows"][0],
            {{"mechanism", "reporting:linux:order=5"},
             {"policy", "linux"},
             {"memory_bytes", kMiB},
             {"duration_seconds", 4.0},
             {"events", 11},
             {"allocations", 12},
             {"frees", 13},
             {"touched_allocations", 14},
             {"lost_events", 15},
             {"bad_lines", 16},
             {"cut_lines", 17},
             {"unknown_gfp_allocations", 18},
             {"late_events", 19},
             {"late_by_seconds", 0.5},
             {"unmatched_frees", 21},
             {"split_frees", 22},
             {"forced_placements", 23},
             {"failed_allocations", 24},
             {"outside_memory", 25},
             {"moves", 26},
             {"unfit_moves", 27},
             {"unmanaged_bytes", 31 + 32 + 33},
             {"unmanaged_uninitialized_bytes", 31},
             {"unmanaged_offline_bytes", 32},
             {"unmanaged_no_page_bytes", 33},
             {"unmanaged_added_bytes", 34},
             {"memory_changes",
              {{{"time_s", 11.0}, {"gpa", 4096}, {"bytes", 8192}},
               {{"time_s", 12.0}, {"gpa", 8192}, {"bytes", -4096}}}},
             {"error", "out of luck"},
             {"reported_bytes", 41},
             {"needless_bytes", 42},
             {"passes", 3},
             {"resident_mean_bytes", 125},
             {"resident_end_bytes", 200},
             {"free_at_end",
              {{"bytes", 51},
               {"with_host_bytes", 52},
               {"fragmented_bytes", 53},
               {"below_order_bytes", 54},
               {"below_watermark_bytes", 55},
               {"not_due_bytes", 56}}}});
  ExpectHas(summary["rows"][1], {{"mechanism", "real"},
                                 {"source", "recording"},
                                 {"reported_bytes", 81},
                                 {"needless_bytes", 82},
                                 {"resident_mean_bytes", 83},
                                 {"resident_end_bytes", 84}});
}

TEST(ReplayFilesTest, TheSeriesHasEachNumberInItsColumn) {
  const std::vector<ReplayResult> results = {MadeResult()};
  EXPECT_EQ(
      ReplaySeriesCsv(MadeTruth(), results),
      "workload,policy,mechanism,repeat,seconds,guests,resident_bytes,"
      "free_bytes,isolated_bytes,host_share_of_free\n"
      "made/trace.txt,truth,real,,10.500,,71,,,\n"
      "made/trace.txt,linux:order=5,reporting:linux:order=5,,10.000,,100,61,62,"
      "\n"
      "made/trace.txt,linux:order=5,reporting:linux:order=5,,13.000,,200,61,62,"
      "\n"
      "made/trace.txt,linux:order=5,reporting:linux:order=5,,14.000,,200,61,62,"
      "\n");
}

}  // namespace
}  // namespace guestmm::replay_files_test
