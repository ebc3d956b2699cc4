#include "guestmm/experiment/report/replay_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "src/experiment/report/replay_report_parts.h"
#include "tests/testing/made_replays.h"

namespace guestmm::replay_report_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

using Json = nlohmann::json;

std::vector<ReplayResult> Replays() {
  return {MadeReplay("off"), MadeReplay("v12"), MadeReplay("linux")};
}

Recording Truth() { return MadeRecording(MadeReplay("linux")); }

// The text between `begin` and the next `end`.
std::string Between(const std::string& text, const std::string& begin,
                    const std::string& end) {
  const size_t start = text.find(begin);
  EXPECT_NE(start, std::string::npos) << begin;
  const size_t first = start + begin.size();
  return text.substr(first, text.find(end, first) - first);
}

// The data as a browser finds it: up to the end of the script element.
std::string DataText(const std::string& page) {
  return Between(page, R"(<script type="application/json" id="data">)",
                 "</script");
}

Json Data(const std::string& page) { return Json::parse(DataText(page)); }

TEST(ReplayReportTest, ThePageHoldsFiguresAndCurvesOfEachPolicy) {
  const Json data = Data(ReplayReportHtml(Truth(), Replays()));
  EXPECT_EQ(data["recording"], "made/trace.txt");
  EXPECT_EQ(data["memory_bytes"], 512 * kMiB);
  ASSERT_EQ(data["runs"].size(), 3u);

  const Json& off = data["runs"][0];
  EXPECT_EQ(off["name"], "off");
  EXPECT_EQ(off["reported_bytes"], 0);
  EXPECT_EQ(off["resident_end_bytes"], 512 * kMiB);
  EXPECT_EQ(off["resident_mean_bytes"], 512 * kMiB);

  const Json& linux = data["runs"][2];
  EXPECT_EQ(linux["reported_bytes"], 200 * kMiB);
  EXPECT_EQ(linux["resident_end_bytes"], 312 * kMiB);
  // 5 s of 512 MiB; 492, 472, ... 312 MiB for 1 s each; 5 s of 312 MiB.
  EXPECT_EQ(linux["resident_mean_bytes"], 407 * kMiB);
  EXPECT_EQ(linux["counters"]["unmatched_frees"], 3);
  ASSERT_EQ(linux["seconds"].size(), 21u);
  EXPECT_EQ(linux["seconds"][7], 7.0);
  EXPECT_EQ(linux["resident"][7], 452 * kMiB);
  EXPECT_EQ(linux["free_blocks"][7][9], 30);
  EXPECT_EQ(linux["frames"]["blocks"][5], "50a9h1i140a16.40a");
}

TEST(ReplayReportTest, TheTruthIsCutToTheReplayedTime) {
  const Json data = Data(ReplayReportHtml(Truth(), Replays()));
  const Json& truth = data["truth"];
  EXPECT_EQ(truth["reported_bytes"], 200 * kMiB);
  EXPECT_FALSE(truth.contains("needless_bytes"));
  EXPECT_EQ(
      Data(ReplayReportHtml(
          Truth(), Replays(),
          ReplayTruth{.needless_bytes = 4 * kMiB}))["truth"]["needless_bytes"],
      4 * kMiB);
  EXPECT_EQ(truth["resident_end_bytes"], 320 * kMiB);
  EXPECT_EQ(truth["resident_mean_bytes"], 415 * kMiB);
  EXPECT_EQ(truth["seconds"].size(), 21u);
  EXPECT_EQ(truth["resident"][0], 520 * kMiB);
  // The sum over zones.
  EXPECT_EQ(data["buddyinfo"]["free_blocks"][20][9], 101);

  const Json& linux = data["runs"][2]["fidelity"];
  EXPECT_EQ(linux["block_match"], 1.0);
  EXPECT_EQ(linux["resident_mae_percent"], 0.0);
  EXPECT_EQ(data["runs"][0]["fidelity"]["block_match"], 0.0);
}

TEST(ReplayReportTest, WithoutTruthThereIsNoRowForIt) {
  const Json data = Data(ReplayReportHtml(Recording{}, Replays()));
  EXPECT_TRUE(data["truth"].is_null());
  EXPECT_TRUE(data["runs"][1]["fidelity"].is_null());
}

// Free memory by order is recorded inside the guest, the truth outside of it.
TEST(ReplayReportTest, WithBuddyinfoAloneThePageClaimsNoTruth) {
  Recording recording = Truth();
  recording.reports.clear();
  recording.resident.clear();
  const Json data = Data(ReplayReportHtml(recording, Replays()));
  EXPECT_TRUE(data["truth"].is_null());
  EXPECT_EQ(data["buddyinfo"]["free_blocks"][20][9], 101);
  EXPECT_TRUE(Data(ReplayReportHtml({}, Replays()))["buddyinfo"].is_null());
}

TEST(ReplayReportTest, PerfettoShowsNoTruthOfAnotherTime) {
  Recording recording = Truth();
  recording.reports.clear();
  recording.resident = {{.time = MadeTime(-50), .bytes = 12345}};
  EXPECT_THAT(ReplayPerfettoJson(recording, Replays()),
              Not(HasSubstr("\"truth\"")));
}

TEST(ReplayReportTest, TheSummaryHasEachFigureThatIsPrinted) {
  ReplaySet set = {
      .results = Replays(),
      .truth = ReplayTruth{.reported_bytes = 200 * kMiB,
                           .needless_bytes = 4 * kMiB,
                           .resident = Residency{.mean_bytes = 415 * kMiB,
                                                 .end_bytes = 320 * kMiB}}};
  const Json rows = Json::parse(ReplaySummaryJson(Truth(), set))["rows"];
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0]["mechanism"], "off");
  EXPECT_EQ(rows[2]["mechanism"], "reporting:linux");
  EXPECT_EQ(rows[2]["policy"], "linux");
  EXPECT_EQ(rows[2]["source"], "replay");
  EXPECT_EQ(rows[2]["memory_bytes"], 512 * kMiB);
  EXPECT_EQ(rows[2]["duration_seconds"], 20.0);
  EXPECT_EQ(rows[2]["resident_mean_bytes"], 407 * kMiB);
  EXPECT_EQ(rows[2]["resident_end_bytes"], 312 * kMiB);
  EXPECT_EQ(rows[3]["mechanism"], "real");
  EXPECT_EQ(rows[3]["policy"], "real");
  EXPECT_EQ(rows[3]["source"], "recording");
  EXPECT_EQ(rows[3]["reported_bytes"], 200 * kMiB);
  EXPECT_EQ(rows[3]["needless_bytes"], 4 * kMiB);
  EXPECT_EQ(rows[3]["resident_mean_bytes"], 415 * kMiB);
  EXPECT_EQ(rows[3]["resident_end_bytes"], 320 * kMiB);
  set.truth.reset();
  const Json whole = Json::parse(ReplaySummaryJson(Truth(), set));
  EXPECT_EQ(whole["rows"].size(), 3u);
  EXPECT_EQ(whole["complete"], true);
  EXPECT_FALSE(whole.contains("error"));
  set.complete = false;
  set.status = absl::DataLossError("is cut");
  const Json part = Json::parse(ReplaySummaryJson(Truth(), set));
  EXPECT_EQ(part["complete"], false);
  EXPECT_EQ(part["error"], "is cut");
}

TEST(ReplayReportTest, APageMayHaveNoReplayOrAnEmptyOne) {
  EXPECT_TRUE(Data(ReplayReportHtml(Truth(), {}))["runs"].empty());
  const std::vector<ReplayResult> empty(1);
  const Json data = Data(ReplayReportHtml(Truth(), empty));
  EXPECT_TRUE(data["runs"][0]["resident_end_bytes"].is_null());
  EXPECT_TRUE(data["runs"][0]["fidelity"].is_null());
}

TEST(ReplayReportTest, ResultsOfOnePolicyHaveDistinctNames) {
  std::vector<ReplayResult> results = {MadeReplay("linux"), MadeReplay("linux"),
                                       MadeReplay("linux")};
  results[2].options.placement = ReplayPlacement::kNative;
  const Json runs = Data(ReplayReportHtml(Truth(), results))["runs"];
  EXPECT_EQ(runs[0]["name"], "linux, recorded");
  EXPECT_EQ(runs[1]["name"], "linux, recorded (2)");
  EXPECT_EQ(runs[2]["name"], "linux, native");
}

// A folder may have any name.
TEST(ReplayReportTest, NamesAreEscaped) {
  const std::string folder = "</script><!--<script>alert(1)@DATA@&";
  Recording recording = Truth();
  recording.trace_path = "traces/" + folder + "\"\xff/trace.txt";
  std::vector<ReplayResult> results = Replays();
  results[0].options.policy = folder;
  const std::string page = ReplayReportHtml(recording, results);
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(DataText(page), Not(HasSubstr("<")));
  EXPECT_EQ(Data(page)["runs"][0]["name"], folder);
  EXPECT_THAT(Between(page, "<title>", "</title>"),
              HasSubstr("!--&lt;script>alert(1)@DATA@&amp;\"\uFFFD/trace.txt"));
  EXPECT_EQ(page.find('\xff'), std::string::npos);
  EXPECT_TRUE(Json::accept(ReplayPerfettoJson(recording, results)));
}

TEST(ReplayReportTest, ThePageLoadsNothing) {
  const std::string page = ReplayReportHtml(Truth(), Replays());
  for (const char* loads :
       {" src=", " href=", "url(", "@import", "sourceMappingURL", "fetch(",
        "@TITLE@", "@CHARTS_"}) {
    EXPECT_THAT(page, Not(HasSubstr(loads))) << loads;
  }
  // The browser enforces it.
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(ReplayReportTest, TheChartsAreCompleteOrAbsent) {
  if (ReplayReportChartsScript().empty()) {
    EXPECT_TRUE(ReplayReportChartsStyle().empty());
    GTEST_SKIP() << "built without charts: libjs-dygraphs was not there";
  }
  const std::string page = ReplayReportHtml(Truth(), Replays());
  EXPECT_THAT(page, HasSubstr("@license"));
  EXPECT_THAT(page, HasSubstr(".dygraph-"));
  EXPECT_EQ(ReplayReportChartsScript().find("</script"),
            std::string_view::npos);
  EXPECT_EQ(ReplayReportChartsScript().find("<!--"), std::string_view::npos);
}

TEST(ReplayReportTest, ThinningKeepsTheEndOfASeries) {
  ReplayResult result = MadeReplay("linux");
  const ReplaySample last = result.samples.back();
  result.samples.clear();
  for (int second = 0; second < 100'000; ++second) {
    result.samples.push_back(last);
    result.samples.back().time = MadeTime(second);
    result.frames.push_back({.time = MadeTime(second), .blocks = "af"});
  }
  result.samples.back().resident_bytes = 7;
  const Json run = Data(ReplayReportHtml({}, {&result, 1}))["runs"][0];
  EXPECT_EQ(run["stride"], 50);
  EXPECT_EQ(run["seconds"].size(), 2001u);
  EXPECT_EQ(run["seconds"].back(), 99'999.0);
  EXPECT_EQ(run["resident"].back(), 7);
  EXPECT_GT(run["frames"]["stride"], 1);
  EXPECT_LE(run["frames"]["blocks"].size(), 601u);
}

std::vector<Json> Events(const std::string& trace, const std::string& phase,
                         int process) {
  std::vector<Json> events;
  const Json parsed = Json::parse(trace);
  for (const Json& event : parsed["traceEvents"]) {
    if (event["ph"] == phase && event["pid"] == process) {
      events.push_back(event);
    }
  }
  return events;
}

TEST(ReplayReportTest, PerfettoShowsAProcessPerPolicyAndTheTruth) {
  const std::string trace = ReplayPerfettoJson(Truth(), Replays());
  std::vector<std::string> names;
  for (int process = 1; process <= 4; ++process) {
    for (const Json& event : Events(trace, "M", process)) {
      if (event["name"] == "process_name") {
        names.push_back(event["args"]["name"]);
      }
    }
  }
  EXPECT_THAT(names, ElementsAre("replay: off", "replay: v12", "replay: linux",
                                 "truth"));

  std::multiset<std::string> counters;
  for (const Json& event : Events(trace, "C", 3))
    counters.insert(event["name"]);
  for (const char* counter : {"free", "isolated", "resident"}) {
    EXPECT_EQ(counters.count(counter), 21u) << counter;
  }
  // By the trace's clock, in microseconds.
  const Json first = Events(trace, "C", 3)[2];
  EXPECT_EQ(first["name"], "resident");
  EXPECT_EQ(first["ts"], 100e6);
  EXPECT_EQ(first["args"]["bytes"], 512 * kMiB);
  EXPECT_EQ(Events(trace, "C", 4).size(), 21u);
}

TEST(ReplayReportTest, PerfettoShowsAPassAsASlice) {
  ReplayResult result = MadeReplay("linux");
  // A short time after another, and of length 0.
  result.passes.push_back(
      {.start = result.passes.back().end + std::chrono::milliseconds(5),
       .end = result.passes.back().end + std::chrono::milliseconds(5)});
  const std::string trace = ReplayPerfettoJson(Truth(), {&result, 1});
  const std::vector<Json> passes = Events(trace, "X", 1);
  ASSERT_EQ(passes.size(), 11u);
  EXPECT_EQ(passes[0]["name"], "pass");
  EXPECT_EQ(passes[0]["ts"], 105e6);
  EXPECT_EQ(passes[0]["dur"], 9000.0);
  EXPECT_EQ(passes[0]["args"]["reports"], 10);
  EXPECT_EQ(passes[0]["args"]["bytes"], 20 * kMiB);
  EXPECT_EQ(passes[10]["dur"], 1.0);
  EXPECT_EQ(passes[10]["args"]["reports"], 0);
}

// Its passes are not recorded.
TEST(ReplayReportTest, PerfettoGroupsTheRealKernelsReports) {
  ReplayResult real = MadeReplay("real");
  real.passes.clear();
  real.reports.push_back({.time = MadeTime(19), .range = MadeBlock(3)});
  const std::string trace = ReplayPerfettoJson(Truth(), {&real, 1});
  const std::vector<Json> groups = Events(trace, "X", 1);
  ASSERT_EQ(groups.size(), 11u);
  EXPECT_EQ(groups[0]["name"], "reports less than 100 ms apart");
  EXPECT_EQ(groups[0]["ts"], 105e6);
  EXPECT_EQ(groups[0]["dur"], 9000.0);
  EXPECT_EQ(groups[0]["args"]["reports"], 10);
  EXPECT_EQ(groups[0]["args"]["bytes"], 20 * kMiB);
  EXPECT_EQ(groups[10]["dur"], 1.0);
  EXPECT_EQ(Events(trace, "X", 2).size(), 10u);
}

}  // namespace
}  // namespace guestmm::replay_report_test
