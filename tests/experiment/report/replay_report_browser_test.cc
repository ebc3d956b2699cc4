// report.html in headless Chromium. Without Chromium the tests are skipped.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/experiment/report/replay_report.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/replay_report_parts.h"
#include "tests/testing/made_replays.h"

namespace guestmm::replay_report_browser_test {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;
using testing::Not;

using Json = nlohmann::json;

// A visitor's actions on the page; their outcome as JSON.
constexpr char kVisitor[] = R"js(
<pre id="visit"></pre>
<script>
{
  const byId = (id) => document.getElementById(id);
  const look = () => ({time: byId("time-text").textContent, keys: byId("keys").textContent, picture: byId("map").toDataURL()});
  const painted = (id) => [...document.querySelectorAll("#" + id + " canvas")].some((canvas) => {
    const blank = document.createElement("canvas");
    blank.width = canvas.width;
    blank.height = canvas.height;
    return canvas.toDataURL() !== blank.toDataURL();
  });
  const slide = (value) => {
    byId("time").value = value;
    byId("time").dispatchEvent(new Event("input", {bubbles: true}));
    return look();
  };
  const choose = (id, value) => {
    if (byId(id).options.length <= value) return;
    byId(id).value = value;
    byId(id).dispatchEvent(new Event("change", {bubbles: true}));
  };
  const visit = {
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    figures: byId("figures").innerText,
    counters: byId("counters").innerText,
    errors: byId("errors").checkVisibility() ? byId("errors").innerText : "",
    noCharts: byId("no-charts").checkVisibility(),
    resident: painted("resident-chart"),
    orders: painted("orders-chart"),
    hasMap: byId("map").checkVisibility(),
    start: look(),
    later: slide(12),
    max: byId("time").max,
  };
  choose("map-run", "0");
  visit.other = look();
  choose("orders-run", "1");
  byId("anchor").click();
  slide(18);
  byId("play").click();
  setTimeout(() => {
    visit.played = look().time;
    visit.play = byId("play").textContent;
    byId("visit").textContent = JSON.stringify(visit);
  }, 1000);
}
</script>
)js";

class ReplayReportBrowserTest : public testing::Test {
 protected:
  ReplayReportBrowserTest()
      : top_(fs::path(testing::TempDir()) /
             (std::string("replay_report_browser_") +
              testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(top_);
    fs::create_directories(top_);
  }
  ~ReplayReportBrowserTest() override { fs::remove_all(top_); }

  void SetUp() override {
    if (std::string(GUESTMM_CHROMIUM).empty()) {
      GTEST_SKIP() << "NOT TESTED in a browser: there was no chromium when "
                      "this was configured (Debian: chromium)";
    }
  }

  // Opens the page in a window of this width and runs kVisitor. Appends the
  // browser's console to `console`.
  Json Visit(const std::string& page, int width, std::string* console) const {
    const std::string file = (top_ / "report.html").string();
    std::ofstream(file) << page << kVisitor;
    const std::string out = (top_ / "out").string();
    const std::string err = (top_ / "err").string();
    // No sandbox, as root and containers have none. It opens this page only.
    const std::string command = absl::StrCat(
        "timeout 100 '", GUESTMM_CHROMIUM, "' --headless --no-sandbox ",
        "--disable-gpu --disable-dev-shm-usage --no-first-run ",
        "--disable-background-networking --disable-component-update ",
        "--user-data-dir='", (top_ / "profile").string(),
        "' --window-size=", width,
        ",900 --enable-logging=stderr --virtual-time-budget=5000 ",
        "--dump-dom 'file://", file, "' >'", out, "' 2>'", err, "'");
    EXPECT_EQ(std::system(command.c_str()), 0) << Contents(err);
    std::istringstream lines(Contents(err));
    for (std::string line; std::getline(lines, line);) {
      if (line.find(":CONSOLE") != std::string::npos) *console += line + "\n";
    }
    const std::string dom = Contents(out);
    const std::string begin = "<pre id=\"visit\">";
    const size_t start = dom.rfind(begin);
    if (start == std::string::npos) return nullptr;
    const size_t first = start + begin.size();
    const Json visit = Json::parse(
        dom.substr(first, dom.find("</pre>", first) - first), nullptr, false);
    return visit.is_discarded() ? Json(nullptr) : visit;
  }

  static std::string Contents(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

 private:
  fs::path top_;
};

std::string Page() {
  const std::vector<ReplayResult> results = {
      MadeReplay("off"), MadeReplay("v12"), MadeReplay("linux")};
  return ReplayReportHtml(MadeRecording(results[2]), results);
}

TEST_F(ReplayReportBrowserTest, ThePageRendersAndItsSliderMovesTheMap) {
  std::string console;
  const Json visit = Visit(Page(), 1200, &console);
  EXPECT_EQ(console, "");
  ASSERT_TRUE(visit.is_object()) << "the visit did not end";

  EXPECT_THAT(std::string(visit["figures"]), HasSubstr("truth (real guest)"));
  EXPECT_THAT(std::string(visit["figures"]), HasSubstr("100.0 %"));
  // As a share of 400 frees.
  EXPECT_THAT(std::string(visit["counters"]), HasSubstr("\t3 (0.75 %)\t0\t"));
  EXPECT_EQ(visit["errors"], "");
  const bool charts = !ReplayReportChartsScript().empty();
  EXPECT_EQ(visit["noCharts"], !charts);
  EXPECT_EQ(visit["resident"], charts);
  EXPECT_EQ(visit["orders"], charts);

  EXPECT_EQ(visit["hasMap"], true);
  EXPECT_EQ(visit["max"], "20");
  EXPECT_EQ(visit["start"]["time"], "0.00 s");
  EXPECT_EQ(visit["later"]["time"], "12.00 s");
  EXPECT_NE(visit["start"]["picture"], visit["later"]["picture"]);
  // Under "linux", and under "off" at the same time.
  EXPECT_THAT(std::string(visit["later"]["keys"]),
              HasSubstr("free, with the host: 144 MiB"));
  EXPECT_EQ(visit["other"]["time"], "12.00 s");
  EXPECT_THAT(std::string(visit["other"]["keys"]),
              HasSubstr("free, with the host: 0 B"));
  EXPECT_NE(visit["other"]["picture"], visit["later"]["picture"]);

  // It plays to its end and stops there.
  EXPECT_EQ(visit["played"], "20.00 s");
  EXPECT_EQ(visit["play"], "Play");
}

TEST_F(ReplayReportBrowserTest, APhoneNeedNotScrollSideways) {
  std::string console;
  const Json visit = Visit(Page(), 400, &console);
  EXPECT_EQ(console, "");
  ASSERT_TRUE(visit.is_object()) << "the visit did not end";
  EXPECT_LE(visit["width"], 500);
  EXPECT_LE(visit["overflow"], 0);
}

TEST_F(ReplayReportBrowserTest, ARunWithoutMapOrTruthRendersToo) {
  ReplayResult result = MadeReplay("linux");
  result.frames.clear();
  result.error = "trace.txt:3: it is damaged";
  std::string console;
  const std::string page = ReplayReportHtml({}, {&result, 1});
  const Json visit = Visit(page, 1200, &console);
  EXPECT_EQ(console, "");
  ASSERT_TRUE(visit.is_object()) << "the visit did not end";
  EXPECT_EQ(visit["hasMap"], false);
  EXPECT_EQ(
      visit["errors"],
      "linux failed, and is shown up to the error: trace.txt:3: it is damaged");
  EXPECT_THAT(std::string(visit["figures"]), Not(HasSubstr("truth")));
}

// The negative control: errors in a page are detected.
TEST_F(ReplayReportBrowserTest, AnErrorInThePageIsNoticed) {
  std::string console;
  Visit(Page() + "<script>undefined.property</script>", 1200, &console);
  EXPECT_THAT(console, HasSubstr("Uncaught TypeError"));

  console.clear();
  Visit(Page() + "<img src=\"https://example.invalid/a.png\">", 1200, &console);
  EXPECT_THAT(console, HasSubstr("Content Security Policy"));
}

}  // namespace
}  // namespace guestmm::replay_report_browser_test
