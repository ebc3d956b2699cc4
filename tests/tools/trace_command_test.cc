// guestmm trace, run as a program.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "nlohmann/json.hpp"
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
              HasSubstr("binary, version 2, from trace.txt"));
}

TEST_F(TraceCommandTest, InfoIsTheSameAsJson) {
  const std::string text = Write("trace.txt", kTrace);
  Trace("convert " + text + " " + Path("t.gmtrace"));
  auto json = nlohmann::json::parse(Trace("info --json " + text).out);
  EXPECT_EQ(json["paths"], std::vector<std::string>{text});
  EXPECT_EQ(json["format"], "text");
  EXPECT_EQ(json["events"], 3);
  EXPECT_EQ(json["first_event_seconds"], 21.5);
  EXPECT_EQ(json["cpus"], (std::vector<int>{0, 1}));
  EXPECT_EQ(json["lost_events"], 5);
  EXPECT_EQ(json["file_bytes"], sizeof kTrace - 1);
  EXPECT_EQ(json["orders"][3]["allocations"], 1);
  // The binary form keeps all but what is about its own bytes.
  auto binary =
      nlohmann::json::parse(Trace("info --json " + Path("t.gmtrace")).out);
  for (const char* const own :
       {"paths", "format", "file_bytes", "decoded_bytes"}) {
    json.erase(own);
    binary.erase(own);
  }
  EXPECT_EQ(json, binary);
  const Outcome bad = Trace("info --json " + Write("bad", "bad\n"));
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(nlohmann::json::parse(bad.out)["error"].get<std::string>(),
              HasSubstr("bad:1: \"bad\": expected "));
}

TEST_F(TraceCommandTest, SeveralTracesAndFoldersAreMergedByTime) {
  const std::string text = kTrace;
  const size_t second = text.find("  cat-125  [000]");
  const size_t third = text.find("CPU:0");
  fs::create_directories(Path("procs/per_cpu/cpu0"));
  fs::create_directories(Path("procs/per_cpu/cpu1"));
  const std::string zero =
      Write("procs/per_cpu/cpu0/trace", text.substr(second, third - second));
  const std::string one = Write("procs/per_cpu/cpu1/trace",
                                text.substr(0, second) + text.substr(third));
  const std::string out = Path("t.gmtrace");
  for (const std::string& in :
       {zero + " " + one, one + " " + zero, Path("procs/"),
        Path("procs/per_cpu"), one + " - <" + zero}) {
    EXPECT_EQ(Trace("print " + in).out, kPrinted) << in;
  }
  EXPECT_EQ(Trace("convert " + one + " " + zero + " " + out).status, 0);
  EXPECT_EQ(Trace("print " + out).out, kPrinted);
  EXPECT_THAT(Trace("info " + out).out,
              HasSubstr("binary, version 2, from trace and 1 more"));
  EXPECT_EQ(Trace("convert " + Path("procs/") + " " + out).status, 0);
  EXPECT_THAT(Trace("info " + out).out, HasSubstr(", from procs\n"));
  const Outcome info = Trace("info " + Path("procs"));
  EXPECT_THAT(info.out,
              HasSubstr(Path("procs") + ": 2 files, the first text\n"));
  EXPECT_EQ(info.err, "");
  Write("procs/per_cpu/cpu1/trace", "");
  EXPECT_EQ(Trace("info " + Path("procs")).err,
            "guestmm trace: " + one +
                ": is empty: its CPU had no events, or they are missing\n");
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

TEST_F(TraceCommandTest, WhatCannotBeAFileIsRefusedBeforeTheWork) {
  const std::string text = Write("t.txt", std::string(kTrace) + "bad\n");
  const auto expect = [&](const std::string& out, const std::string& error) {
    const Outcome convert = Trace("convert " + text + " " + out);
    EXPECT_EQ(convert.status, 2);
    EXPECT_EQ(convert.err, "guestmm trace convert: " + error + "\n");
  };
  expect("'" + Path("") + "'", Path("") + ": must be a file; it is a folder");
  expect("''", "\"\": must be the path of a file");
}

TEST_F(TraceCommandTest, ConvertsIntoWhatALinkNames) {
  const std::string text = Write("t.txt", kTrace);
  fs::create_symlink("target", Path("link"));
  EXPECT_EQ(Trace("convert " + text + " " + Path("link")).status, 0);
  EXPECT_TRUE(fs::is_symlink(Path("link")));
  EXPECT_EQ(Trace("print " + Path("target")).out, kPrinted);
}

// The output replaces the input only once it is complete.
TEST_F(TraceCommandTest, ConvertsAFileIntoItself) {
  const std::string path = Write("trace", kTrace);
  EXPECT_EQ(Trace("convert " + path + " " + path).status, 0);
  EXPECT_EQ(Trace("print " + path).out, kPrinted);
}

}  // namespace
}  // namespace guestmm::trace_command_test
