#include "tools/guestmm/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace guestmm::progress_test {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;
using tools::Bar;
using tools::RoughTime;
using tools::TimeLeft;

TEST(TimeLeftTest, IsInProportionToTheTimeTaken) {
  TimeLeft left;
  EXPECT_EQ(left.At(seconds(0)), std::nullopt);
  left.Update(seconds(10), 0);
  left.Update(seconds(20), 0.25);
  EXPECT_EQ(left.At(seconds(20)), seconds(30));
  // Counts down while nothing is told, though not below 0.
  EXPECT_EQ(left.At(seconds(25)), seconds(25));
  EXPECT_EQ(left.At(minutes(5)), seconds(0));
}

TEST(TimeLeftTest, IsUnknownAtFirst) {
  TimeLeft left;
  left.Update(seconds(0), 0);
  left.Update(milliseconds(900), 0.5);
  EXPECT_EQ(left.At(milliseconds(900)), std::nullopt);
}

TEST(TimeLeftTest, BeginsAnewWhenTheShareFalls) {
  TimeLeft left;
  left.Update(seconds(0), 0);
  left.Update(seconds(10), 0.9);
  left.Update(seconds(10), 0);
  EXPECT_EQ(left.At(seconds(11)), std::nullopt);
  left.Update(seconds(14), 0.5);
  EXPECT_EQ(left.At(seconds(14)), seconds(4));
}

TEST(ProgressTest, FormatsTimesRoughly) {
  EXPECT_EQ(RoughTime(milliseconds(2600)), "3 s");
  EXPECT_EQ(RoughTime(milliseconds(59600)), "1 min 0 s");
  EXPECT_EQ(RoughTime(seconds(125)), "2 min 5 s");
  EXPECT_EQ(RoughTime(hours(1) + minutes(20)), "1 h 20 min");
}

TEST(ProgressTest, ABarIsFilledInProportion) {
  EXPECT_EQ(Bar(0), "[--------------------]");
  EXPECT_EQ(Bar(0.5), "[##########----------]");
  EXPECT_EQ(Bar(1.1), "[####################]");
}

// What a command writes to a terminal of `columns`, its stdout and stderr, to
// its end. Its status must be `expected`.
std::string OnTerminal(unsigned short columns, std::vector<std::string> words,
                       int expected = 0) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const winsize size = {
      .ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    unsetenv("COLUMNS");
    execv(argv.front(), argv.data());
    _exit(127);
  }
  EXPECT_GT(child, 0);
  std::string text;
  std::array<char, 4096> buffer;
  // At the end a terminal has an error, EIO.
  for (ssize_t got = 0;
       (got = read(terminal, buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  close(terminal);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), expected) << text;
  return text;
}

TEST(ProgressTest, IsALineOnATerminalThatIsOverwrittenAndErased) {
  constexpr unsigned short kColumns = 40;
  const std::string text =
      OnTerminal(kColumns, {GUESTMM_COMMAND, "compare", "--policies", "v12",
                            "--workloads", "burst", "--guest-memory", "64MiB",
                            "--vcpus", "1", "--duration", "1", "--rest", "1"});
  const std::vector<std::string> drawn =
      absl::StrSplit(text, "\r\x1b[K");  // return, and clear the line
  // The first piece is ahead of all, the last is the erased line and the
  // results.
  ASSERT_GE(drawn.size(), 3u);
  EXPECT_EQ(drawn.front(), "");
  EXPECT_THAT(drawn[1], MatchesRegex("running burst [0-9]+ %; .*"));
  for (size_t i = 1; i + 1 < drawn.size(); ++i) {
    EXPECT_LT(drawn[i].size(), kColumns) << drawn[i];
    EXPECT_THAT(drawn[i], Not(HasSubstr("\n")));
  }
  // Without the bar, which does not fit.
  EXPECT_THAT(drawn[drawn.size() - 2], StartsWith("running burst 100 %"));
  EXPECT_THAT(drawn.back(), StartsWith("compare: in virtual time,"));
  const std::vector<std::string> lines = absl::StrSplit(drawn.back(), "\r\n");
  for (const std::string& line : lines) {
    EXPECT_LE(line.size(), kColumns) << line;
  }
}

// Each guest that fits is a part of the policy's share.
TEST(ProgressTest, DensitysMovesWithEachGuest) {
  constexpr unsigned short kColumns = 80;
  const std::string text = OnTerminal(
      kColumns, {GUESTMM_COMMAND, "density", "--scale", "0.02", "--policies",
                 "off,linux", "--max-guests", "4", "--settle", "0"});
  const std::vector<std::string> drawn = absl::StrSplit(text, "\r\x1b[K");
  std::set<std::string> shares;
  for (size_t i = 1; i + 1 < drawn.size(); ++i) {
    EXPECT_LT(drawn[i].size(), kColumns);
    EXPECT_THAT(drawn[i], HasSubstr("; guest "));
    const size_t end = drawn[i].find(" %");
    ASSERT_NE(end, std::string::npos) << drawn[i];
    const size_t start = drawn[i].rfind(' ', end - 1) + 1;
    shares.insert(drawn[i].substr(start, end - start));
  }
  // Three fit without reporting; then it is half done.
  EXPECT_THAT(shares,
              ElementsAre("0", "12", "25", "38", "50", "62", "75", "88"));
  // More than four would fit.
  EXPECT_THAT(text, HasSubstr("share of limit"));
  EXPECT_THAT(text, Not(HasSubstr("100 %")));
}

TEST(ProgressTest, ErrorsFitTheTerminal) {
  constexpr unsigned short kColumns = 40;
  const std::string text = OnTerminal(
      kColumns, {GUESTMM_COMMAND, "density", "--policies", "linx"}, 2);
  const std::vector<std::string> lines = absl::StrSplit(text, "\r\n");
  EXPECT_GT(lines.size(), 3u);
  for (const std::string& line : lines) EXPECT_LE(line.size(), kColumns);
  EXPECT_EQ(absl::StrJoin(lines, " "),
            "guestmm density: --policies=linx: must be one of off, v12, "
            "v12-hotplug, linux, adaptive; did you mean 'linux'? ");
}

TEST(ProgressTest, QuietShowsNothingOnATerminalEither) {
  EXPECT_EQ(OnTerminal(80, {GUESTMM_COMMAND, "compare", "--policies", "v12",
                            "--workloads", "burst", "--guest-memory", "64MiB",
                            "--vcpus", "1", "--duration", "1", "--rest", "1",
                            "--quiet"}),
            "");
}

}  // namespace
}  // namespace guestmm::progress_test
