// guestmm trace, run as a program.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/tools/command_testing.h"

namespace guestmm::trace_command_test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ContainsRegex;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kTrace[] =
    "# tracer: nop\n"
    "  cat-125  [001] .....    21.500000: mm_page_alloc: page=00000000a7b0bff0 "
    "pfn=0x1297a8 order=3 migratetype=0 gfp_flags=GFP_KERNEL|__GFP_ZERO\n"
    "  cat-125  [000] .....    21.600000: mm_page_free: page=00000000a7b0bff0 "
    "pfn=0x1297a8 order=3\n"
    "CPU:0 [LOST 5 EVENTS]\n"
    "  cat-125  [001] .....    23.000000: mm_page_free: page=00000000a7b0bff1 "
    "pfn=0x12 order=0\n";
constexpr char kPrinted[] =
    "guestmm-0 [001] 21.500000: mm_page_alloc: pfn=0x1297a8 order=3 "
    "migratetype=0 gfp_flags=GFP_KERNEL|__GFP_ZERO\n"
    "guestmm-0 [000] 21.600000: mm_page_free: pfn=0x1297a8 order=3\n"
    "guestmm-0 [001] 23.000000: mm_page_free: pfn=0x12 order=0\n";

class TraceCommandTest : public CommandTest {
 protected:
  Outcome Trace(const std::string& arguments) const {
    return Guestmm("trace " + arguments);
  }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name)) << text;
    return Path(name);
  }
};

TEST_F(TraceCommandTest, HelpNamesEveryCommandAndOption) {
  const Outcome help = Trace("--help");
  EXPECT_EQ(help.status, 0);
  EXPECT_THAT(help.out, AllOf(HasSubstr("convert"), HasSubstr("info"),
                              HasSubstr("print")));
  EXPECT_THAT(Trace("print --help").out,
              AllOf(HasSubstr("--skip-bad"), HasSubstr("--limit")));
  EXPECT_EQ(Trace("").status, 2);
  EXPECT_EQ(Trace("convert onlyone").status, 2);
  EXPECT_EQ(Trace("info x --skip-bad -1").status, 2);
}

TEST_F(TraceCommandTest, ConvertsAndPrintsTheSameOfBothForms) {
  const std::string text = Write("trace.txt", kTrace);
  const Outcome convert = Trace("convert " + text + " " + Path("t.gmtrace"));
  EXPECT_EQ(convert.status, 0);
  EXPECT_THAT(convert.out, HasSubstr("t.gmtrace: 3 events, "));
  EXPECT_EQ(convert.err, "guestmm trace: the trace lost 5 events\n");
  EXPECT_EQ(Trace("print " + text).out, kPrinted);
  EXPECT_EQ(Trace("print " + Path("t.gmtrace")).out, kPrinted);
  const Outcome one = Trace("print --limit 1 " + text);
  EXPECT_EQ(one.status, 0);
  EXPECT_EQ(one.out, std::string(kPrinted).substr(0, one.out.size()));
  EXPECT_THAT(one.out, EndsWith("__GFP_ZERO\n"));
}

TEST_F(TraceCommandTest, InfoSummarizesATrace) {
  const std::string text = Write("trace.txt", kTrace);
  Trace("convert " + text + " " + Path("t.gmtrace"));
  for (const std::string& path : {text, Path("t.gmtrace")}) {
    const Outcome info = Trace("info " + path);
    EXPECT_EQ(info.status, 0) << info.err;
    for (const char* const row :
         {"events +3\n", "allocations +1\n", "frees +2\n", "cpus +2\n",
          "first event +21.500000 s\n", "last event +23.000000 s\n",
          "time +1.500000 s\n", "lost events +5\n", "malformed lines +0\n",
          "other lines +1\n", "\n3 +1 +1\n", "\n0 +0 +1\n",
          "bytes per event, in the file +[0-9.]+\n"}) {
      EXPECT_THAT(info.out, ContainsRegex(row)) << path;
    }
  }
  EXPECT_THAT(Trace("info " + Path("t.gmtrace")).out,
              HasSubstr("binary, version 1, from trace.txt"));
}

TEST_F(TraceCommandTest, AFileThatIsNoTraceDoesNotReplaceTheOutput) {
  const std::string out = Write("t.gmtrace", "precious");
  const std::string text = Write("t.txt", "bad\n");
  const Outcome convert = Trace("convert " + text + " " + out);
  EXPECT_EQ(convert.status, 1);
  EXPECT_THAT(convert.err, HasSubstr(text + ":1: \"bad\": expected "));
  EXPECT_EQ(Contents(out), "precious");
}

TEST_F(TraceCommandTest, AMalformedLineIsNamedAndEventsBeforeItAreKept) {
  const std::string text = Write("t.txt", std::string(kTrace) + "bad\n");
  const Outcome convert = Trace("convert " + text + " " + Path("t.gmtrace"));
  EXPECT_EQ(convert.status, 1);
  EXPECT_THAT(convert.err,
              AllOf(HasSubstr("guestmm trace convert: " + text +
                              ":6: \"bad\": expected TASK-PID [CPU] "),
                    HasSubstr("t.gmtrace has the 3 events before that\n")));
  EXPECT_EQ(Trace("print " + Path("t.gmtrace")).out, kPrinted);
  const Outcome print = Trace("print " + text);
  EXPECT_EQ(print.status, 1);
  EXPECT_EQ(print.out, kPrinted);
  const Outcome info = Trace("info " + text);
  EXPECT_EQ(info.status, 1);
  EXPECT_THAT(info.out, ContainsRegex("events +3\n"));

  const Outcome skipped = Trace("info --skip-bad 1 " + text);
  EXPECT_EQ(skipped.status, 0);
  EXPECT_THAT(skipped.out, ContainsRegex("malformed lines +1\n"));
}

TEST_F(TraceCommandTest, FilesThatCannotBeReadOrWrittenAreNamed) {
  const Outcome none = Trace("info " + Path("none"));
  EXPECT_EQ(none.status, 1);
  EXPECT_EQ(none.err, "guestmm trace info: " + Path("none") +
                          ": cannot be read: No such file or directory\n");
  EXPECT_THAT(none.out, IsEmpty());
  const std::string text = Write("trace.txt", kTrace);
  const Outcome convert = Trace("convert " + text + " " + Path("no/such/file"));
  EXPECT_EQ(convert.status, 1);
  EXPECT_THAT(convert.err, HasSubstr("no/such/file: cannot be written: "));
}

// The output replaces the input only once it is complete.
TEST_F(TraceCommandTest, ConvertsAFileIntoItself) {
  const std::string path = Write("trace", kTrace);
  EXPECT_EQ(Trace("convert " + path + " " + path).status, 0);
  EXPECT_EQ(Trace("print " + path).out, kPrinted);
}

}  // namespace
}  // namespace guestmm::trace_command_test
