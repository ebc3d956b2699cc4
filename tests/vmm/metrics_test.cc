#include "guestmm/vmm/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "tests/vmm/vmm_testing.h"

namespace guestmm::metrics_test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class MetricsTest : public VmmWorld {};

// The rules of Prometheus's text format, and its conventions for names.
void CheckForm(const std::string& text) {
  const std::regex help(R"(# HELP ([a-z_:][a-z0-9_:]*) \S.*)");
  const std::regex type(R"(# TYPE ([a-z_:][a-z0-9_:]*) (counter|gauge))");
  const std::regex sample(
      R"(([a-z_:][a-z0-9_:]*)(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? [0-9]+)");
  ASSERT_TRUE(absl::EndsWith(text, "\n"));
  std::set<std::string> names;
  std::set<std::string> series;
  std::string name;
  std::string kind;
  bool has_type = false;
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  lines.pop_back();
  for (const std::string& line : lines) {
    std::smatch match;
    if (std::regex_match(line, match, help)) {
      name = match[1];
      has_type = false;
      EXPECT_TRUE(names.insert(name).second) << name << " comes twice";
      EXPECT_TRUE(absl::StartsWith(name, "guestmm_vmm_")) << name;
    } else if (std::regex_match(line, match, type)) {
      EXPECT_EQ(match[1], name);
      kind = match[2];
      has_type = true;
      EXPECT_EQ(absl::EndsWith(name, "_total"), kind == "counter") << name;
    } else if (std::regex_match(line, match, sample)) {
      EXPECT_EQ(match[1], name);
      EXPECT_TRUE(has_type) << line;
      EXPECT_TRUE(series.insert(match[1].str() + match[2].str()).second)
          << line << ": its series comes twice";
    } else {
      ADD_FAILURE() << line;
    }
  }
}

TEST_F(MetricsTest, HaveTheFormOfPrometheus) {
  CheckForm(FormatMetrics(vmm_));
  const auto one = StartGuest();
  const auto two = StartGuest();
  ASSERT_TRUE(one != nullptr && two != nullptr);
  CheckForm(FormatMetrics(vmm_));
}

TEST_F(MetricsTest, HaveASeriesForEachGuest) {
  EXPECT_THAT(FormatMetrics(vmm_), HasSubstr("\nguestmm_vmm_guests 0\n"));
  auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  FreeABlock(*guest);
  guest->WaitUntilAtRest(std::chrono::minutes(1));
  const std::string text = FormatMetrics(vmm_);
  EXPECT_THAT(text, HasSubstr("\nguestmm_vmm_guests 1\n"));
  EXPECT_THAT(text, HasSubstr(absl::StrCat(
                        "\nguestmm_vmm_guest_info{guest=\"1\",pid=\"", getpid(),
                        "\",uid=\"", getuid(), "\"} 1\n")));
  for (const char* const sample :
       {"\nguestmm_vmm_balloon_reports_total{guest=\"1\"} ",
        "\nguestmm_vmm_balloon_skipped_tables_total{guest=\"1\",fault=\"size\"}"
        " "
        "0\n",
        "\nguestmm_vmm_discarded_bytes_total{guest=\"1\"} ",
        "\nguestmm_vmm_guest_memory_total_bytes{guest=\"1\"} ",
        "\nguestmm_vmm_holds_discards{guest=\"1\"} 0\n"}) {
    EXPECT_THAT(text, HasSubstr(sample));
  }
  guest.reset();
  EXPECT_TRUE(Await([&] { return vmm_.guests() == 0; }));
  const std::string after = FormatMetrics(vmm_);
  EXPECT_THAT(after, Not(HasSubstr("guest=\"1\"")));
  EXPECT_THAT(after, Not(HasSubstr("_discarded_bytes_total 0\n")))
      << "the sum remains";
}

}  // namespace
}  // namespace guestmm::metrics_test
