// Traces as text, plain and compressed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "guestmm/trace/trace_reader.h"
#include "tests/testing/interrupted_calls.h"
#include "tests/trace/trace_testing.h"

namespace guestmm::text_reader_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using trace::ReadWhole;
using trace::WholeTrace;

// The fields of the tests' allocation: "page=... pfn=0x1f order=2 ...".
constexpr char kFields[] =
    "page=000000002127fb7f pfn=0x1f3 order=1 migratetype=2 "
    "gfp_flags=GFP_KERNEL|__GFP_ZERO";

TraceEvent TheAlloc() {
  return {.time = std::chrono::microseconds(21'635'540),
          .pfn = Pfn(0x1f3),
          .order = Order(1),
          .kind = TraceEvent::Kind::kAlloc,
          .migratetype = 2,
          .cpu = 12,
          .gfp = GfpFlags::Parse("GFP_KERNEL|__GFP_ZERO")};
}

TraceEvent TheFree() {
  return {.time = std::chrono::microseconds(21'635'540),
          .pfn = Pfn(0x1f3),
          .order = Order(1),
          .kind = TraceEvent::Kind::kFree,
          .cpu = 12};
}

// Reads a text of one line.
WholeTrace ReadLine(const std::string& line,
                    const TraceReadOptions& options = {}) {
  return ReadWhole(line + "\n", options);
}

void ExpectAlloc(const std::string& line) {
  const WholeTrace trace = ReadLine(line);
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, ElementsAre(TheAlloc())) << line;
}

void ExpectFree(const std::string& line) {
  const WholeTrace trace = ReadLine(line);
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, ElementsAre(TheFree())) << line;
}

constexpr char kGood[] =
    "  cat-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1f3 order=1\n";

// Behind an event, where no free text may be.
void ExpectBad(const std::string& line, const std::string& expected) {
  const WholeTrace trace = ReadLine(kGood + line);
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kInvalidArgument) << line;
  EXPECT_THAT(trace.message(),
              AllOf(HasSubstr("t:2: \""), HasSubstr("expected " + expected)));
  const WholeTrace skipped = ReadLine(kGood + line, {.skip_bad = 1});
  EXPECT_TRUE(skipped.status.ok());
  EXPECT_EQ(skipped.counters.bad_lines, 1u);
  EXPECT_THAT(skipped.events, ElementsAre(TheFree()));
}

TEST(TextReaderTest, ReadsFtrace) {
  const std::string fields = kFields;
  ExpectAlloc("   cat-125     [012] .....    21.635540: mm_page_alloc: " +
              fields);
  ExpectAlloc("   cat-125     [012] d..1.    21.635540: mm_page_alloc: " +
              fields);
  ExpectAlloc("   cat-125     [012] d..1    21.635540: mm_page_alloc: " +
              fields);
  // Without the column of irqs-off etc., and with tgids.
  ExpectAlloc("   cat-125     [012]    21.635540: mm_page_alloc: " + fields);
  ExpectAlloc("   cat-125   (  125) [012] d..1  21.635540: mm_page_alloc: " +
              fields);
  ExpectAlloc("   cat-125   (-----) [012]   21.635540: mm_page_alloc: " +
              fields);
  ExpectFree(
      "   cat-125     [012] .....    21.635540: mm_page_free: "
      "page=00000000a7b0bff0 pfn=0x1f3 order=1");
}

// What per-CPU lists and zones exchange.
TEST(TextReaderTest, ReadsMovesOfLists) {
  const std::string head = "   cat-125     [012] .....    21.635540: ";
  const std::string block = "page=0000 pfn=0x1f3 order=1";
  TraceEvent event = TheFree();
  event.kind = TraceEvent::Kind::kDrain;
  event.migratetype = 2;
  EXPECT_THAT(
      ReadLine(head + "mm_page_pcpu_drain: " + block + " migratetype=2").events,
      ElementsAre(event));
  event.kind = TraceEvent::Kind::kZoneAlloc;
  const std::string refill =
      head + "mm_page_alloc_zone_locked: " + block + " migratetype=2 ";
  EXPECT_THAT(ReadLine(refill + "percpu_refill=1").events, ElementsAre(event));
  EXPECT_THAT(ReadWhole(refill + "percpu_refill=1").events, ElementsAre(event))
      << "whole, though without an end";
  ExpectBad(head + "mm_page_pcpu_drain: " + block, "migratetype=NUMBER");
}

TEST(TextReaderTest, ReadsWhatPerfAndTraceCmdPrint) {
  const std::string fields = kFields;
  ExpectAlloc("cat   125 [012]    21.635540: kmem:mm_page_alloc: " + fields);
  ExpectAlloc("cat   125/125   [012]    21.635540000: kmem:mm_page_alloc: " +
              fields);
  ExpectAlloc("cat 125 [012] 21.635540:          1 kmem:mm_page_alloc: " +
              fields);
  ExpectAlloc("    cat-125   [012]    21.635540: mm_page_alloc:        " +
              fields);
  // The page address that trace-cmd computes without knowing its base.
  ExpectAlloc(
      "    cat-125   [012]    21.635540: mm_page_alloc:        page=0 "
      "pfn=0x1f3 "
      "order=1 migratetype=2 gfp_flags=GFP_KERNEL|GFP_ZERO");
  ExpectAlloc(
      "    cat-125   [012]    21.635540: mm_page_alloc: [FAILED TO PARSE] "
      "pfn=499 order=1 gfp_flags=GFP_KERNEL|__GFP_ZERO migratetype=2");
  const WholeTrace trace = ReadWhole(
      "cpus=2\n"
      "# captured on: today\n"
      "cat   125 [012]    21.635540: kmem:mm_page_free: page=0x1 pfn=0x1f3 "
      "order=1\n"
      "\tffffffff81156bd1 __free_pages+0x1d1 ([kernel.kallsyms])\n"
      "        7f12 [unknown] (/lib/x)\n"
      "\n");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, ElementsAre(TheFree()));
  EXPECT_EQ(trace.counters.other_lines, 5u);
}

TEST(TextReaderTest, ReadsOlderKernels) {
  ExpectAlloc(
      "   cat-125     [012]    21.635540: mm_page_alloc: "
      "page=ffffea0001 pfn=499 order=1 migratetype=2 "
      "gfp_flags=GFP_KERNEL|GFP_ZERO");
  ExpectFree(
      "   cat-125     [012]    21.635540: mm_page_free_direct: "
      "page=ffffea0001 pfn=499 order=1");
  const WholeTrace trace = ReadLine(
      "   cat-125     [012]    21.635540: mm_pagevec_free: page=ffffea0001 "
      "pfn=499 order=0 cold=0");
  EXPECT_THAT(trace.events, IsEmpty());
  EXPECT_EQ(trace.counters.batched_frees, 1u);
}

TEST(TextReaderTest, ATasksNameMayBeAnyText) {
  for (const char* const task :
       {"a b", "[000] 1.000000:", "mm_page_alloc:", "[0] x: y", "] [", "-1 [1]",
        "(x)", "# x", "kworker/u4:2+ev", "CPU:0 [LOST 1 E", "[001] 1.0: a", "",
        "1.000000: a=b", "pfn=0x5 order=2"}) {
    ExpectAlloc(std::string("   ") + task +
                "-125     [012] .....    21.635540: mm_page_alloc: " + kFields);
    ExpectAlloc(std::string(task) +
                " 125 [012]    21.635540: kmem:mm_page_alloc: " + kFields);
  }
}

TEST(TextReaderTest, OtherEventsAreSkipped) {
  for (const char* const event :
       {"sched_switch: prev_comm=mm_page_alloc: ==> next_comm=x",
        "mm_page_alloc_extfrag: page=1 pfn=0x1 alloc_order=0",
        "tracing_mark_write: x-1 [000] 1.000000: mm_page_free: pfn=1 order=0",
        "do_fork <-sys_clone"}) {
    const WholeTrace trace =
        ReadLine(std::string("  cat-1 [000] ..... 1.000000: ") + event);
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    EXPECT_THAT(trace.events, IsEmpty());
    EXPECT_EQ(trace.counters.other_lines, 1u) << event;
  }
}

TEST(TextReaderTest, ABatchedFreeIsNotASecondFree) {
  const WholeTrace trace = ReadWhole(
      "  cat-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1f3 order=1\n"
      "  cat-1 [012] ..... 21.635541: mm_page_free_batched: page=1 pfn=0x1f3 "
      "order=1\n");
  EXPECT_THAT(trace.events, ElementsAre(TheFree()));
  EXPECT_EQ(trace.counters.batched_frees, 1u);
}

TEST(TextReaderTest, FailedAllocationsAreCounted) {
  for (const char* const page :
       {"page=(nil) pfn=24019198012555264", "page=(nil) pfn=-24019198012",
        "page=          (null) pfn=0", "page=0000000000000000 pfn=0x0",
        "page=0 pfn=0xffffffffffffffff", "page=0x0 pfn=0"}) {
    const WholeTrace trace =
        ReadLine(std::string("  cat-1 [012] ..... 21.635540: mm_page_alloc: ") +
                 page + " order=9 migratetype=1 gfp_flags=GFP_TRANSHUGE");
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    EXPECT_THAT(trace.events, IsEmpty()) << page;
    EXPECT_EQ(trace.counters.failed_allocs, 1u) << page;
  }
}

TEST(TextReaderTest, LostEventsAreCounted) {
  const WholeTrace trace = ReadWhole(
      "CPU:0 [LOST 123 EVENTS]\n"
      "CPU:1 [7 EVENTS DROPPED]\n"
      "CPU:1 [EVENTS DROPPED]\n"
      "  cat 1 [012] 21.635540: PERF_RECORD_LOST lost 1000\n");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.counters.lost, 1131u);
  EXPECT_EQ(trace.counters.events, 0u);
}

TEST(TextReaderTest, MalformedLinesSayWhatWasExpected) {
  const std::string head = "  cat-1 [012] ..... 21.635540: ";
  const std::string line = "TASK-PID [CPU] SECONDS.MICROSECONDS: EVENT: FIELDS";
  ExpectBad("nonsense", line);
  ExpectBad("  cat-1 [012] ..... 21.63x540: mm_page_free: pfn=1", line);
  for (const char* const event : {"mm_page_free", "kmem:mm_page_free"}) {
    ExpectBad(std::string("  cat-1 [012] ..... 21635540: ") + event + ": pfn=1",
              line + "; a time without a point may be in any unit");
  }
  ExpectBad("  cat-1 [99999] ..... 1.000000: mm_page_free: pfn=1", "[CPU]");
  ExpectBad("  cat-1 [012] .....", line);
  ExpectBad(head, "EVENT: FIELDS after the time");
  ExpectBad(head + "mm_page_fr", "a colon after the event's name");
  ExpectBad(head + "mm_page_free: page=1 pfn=0x1f3", "pfn=NUMBER and order");
  ExpectBad(head + "mm_page_free: page=1 order=1", "pfn=NUMBER and order");
  ExpectBad(head + "mm_page_free: page=1 pfn=0x1f3 order=11",
            "order=NUMBER, from 0 to 10");
  ExpectBad(head + "mm_page_free: page=1 pfn=1f3 order=1",
            "pfn=NUMBER, decimal or as 0x1f");
  ExpectBad(head + "mm_page_free: page=1 pfn=0x10000000000 order=1",
            "pfn=NUMBER, of up to 40 bits");
  ExpectBad(head + "mm_page_alloc: page=1 pfn=1 order=1 gfp_flags=GFP_USER",
            "migratetype=NUMBER and gfp_flags=NAMES");
  ExpectBad(head + "mm_page_alloc: page=1 pfn=1 order=1 migratetype=300",
            "migratetype=NUMBER, from 0 to 255");
}

TEST(TextReaderTest, SkipsAsManyMalformedLinesAsAllowed) {
  const std::string good = kGood;
  const std::string text = good + "bad\n" + good + "bad\n" + good + "bad\n";
  WholeTrace trace = ReadWhole(text, {.skip_bad = 3});
  EXPECT_TRUE(trace.status.ok());
  EXPECT_THAT(trace.events, SizeIs(3));
  EXPECT_EQ(trace.counters.bad_lines, 3u);
  trace = ReadWhole(text, {.skip_bad = 2});
  EXPECT_THAT(trace.message(), HasSubstr("t:6: \"bad\""));
  EXPECT_THAT(trace.events, SizeIs(3));
}

TEST(TextReaderTest, AnEmptyTextIsATraceWithoutEvents) {
  const WholeTrace trace = ReadWhole("");
  EXPECT_TRUE(trace.status.ok());
  EXPECT_THAT(trace.events, IsEmpty());
}

// "order=1" may have been "order=10".
TEST(TextReaderTest, ALastLineWithoutAnEndMayBeTruncated) {
  const std::string free = "  cat-1 [012] ..... 21.635540: mm_page_free: ";
  const std::string alloc = "  cat-1 [012] ..... 21.635540: mm_page_alloc: ";
  for (const std::string& last :
       {free + "page=1 pfn=0x1f3 order=1", free + "page=1 pfn=0x1f3 order=",
        free + "order=0 pfn=0x1f3", free + "page=1", std::string("  cat-1 [01"),
        std::string("  cat-1 [012] ..... 21.635540: mm_pa"),
        alloc + "pfn=1 order=0 migratetype=1 gfp_flags=GFP_HIGHUSER_MOV"}) {
    const WholeTrace trace = ReadWhole(kGood + last);
    EXPECT_EQ(trace.status.code(), absl::StatusCode::kDataLoss) << last;
    EXPECT_THAT(trace.message(),
                AllOf(HasSubstr("t:2: "), HasSubstr("truncated")));
    EXPECT_EQ(trace.counters.cut_lines, 1u);
  }
  for (const std::string& last :
       {free + "page=1 pfn=0x1f3 order=0", free + "page=1 pfn=0x1f3 order=10",
        alloc + "pfn=1 order=0 migratetype=1 gfp_flags=GFP_KERNEL"}) {
    const WholeTrace trace = ReadWhole(kGood + last);
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    EXPECT_THAT(trace.events, SizeIs(2));
    EXPECT_EQ(trace.counters.unended_lines, 1u);
    EXPECT_EQ(trace.counters.cut_lines, 0u);
  }
}

TEST(TextReaderTest, LinesMayEndAsOnWindows) {
  const std::string good(kGood, sizeof kGood - 2);
  const WholeTrace trace =
      ReadWhole("\xef\xbb\xbf" + good + "\r\n" +
                good.substr(0, good.size() - 1) + "0\r\n# comment\r\n\r\n");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, SizeIs(2));
  EXPECT_EQ(trace.counters.other_lines, 2u);
  EXPECT_EQ(ReadWhole(good + "\r").counters.unended_lines, 0u);
}

TEST(TextReaderTest, Utf16IsNamed) {
  std::string low;
  std::string high;
  for (const char c : std::string(kGood)) {
    low += {c, '\0'};
    high += {'\0', c};
  }
  for (const std::string& text : {"\xff\xfe" + low, "\xfe\xff" + high, low,
                                  high, low.substr(0, 2), high.substr(0, 3)}) {
    EXPECT_THAT(ReadWhole(text).message(), HasSubstr("; it is UTF-16"));
  }
  EXPECT_THAT(ReadWhole(std::string("ab\0\0", 4)).message(),
              Not(HasSubstr("UTF-16")));
  EXPECT_THAT(ReadWhole(std::string(8, '\0')).message(),
              Not(HasSubstr("UTF-16")));
}

TEST(TextReaderTest, TimesMayHaveOneToTwelveDigitsBehindThePoint) {
  const auto time = [](const std::string& text) {
    const WholeTrace trace = ReadLine("  cat-1 [012] ..... " + text +
                                      ": mm_page_free: pfn=1 order=1");
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    return trace.events.empty() ? Nanoseconds(0) : trace.events[0].time;
  };
  EXPECT_EQ(time("21.5"), std::chrono::milliseconds(21'500));
  EXPECT_EQ(time("21.635"), std::chrono::milliseconds(21'635));
  EXPECT_EQ(time("21.6355401"), Nanoseconds(21'635'540'100));
  EXPECT_EQ(time("21.635540123999"), Nanoseconds(21'635'540'123));
  ExpectBad("  cat-1 [012] ..... 21.6355401234567: mm_page_free: pfn=1 order=1",
            "TASK-PID [CPU]");
  // A task's name of 15 characters is no header.
  EXPECT_EQ(ReadLine("[001] 1.5: abcd-7 [012] ..... 21.5: mm_page_free: pfn=1 "
                     "order=1")
                .events.at(0)
                .cpu,
            12);
}

TEST(TextReaderTest, ToolsPrintLinesOfTheirOwn) {
  const std::string good = kGood;
  for (const std::string own :
       {"CPU 2 is empty", "cpus=4", "version = 6",
        "TRACE:", "##### CPU 2 buffer started ####",
        "Dumping ftrace buffer:", "---------------------------------",
        "Warning:", "Processed 12 events and lost 3 chunks!",
        "Check IO/CPU overload!",
        "[ perf record: Woken up 1 times to write data ]",
        "failed to read event print fmt for mm_page_alloc",
        "\tffffffff81156bd1 f+0x1", "CPU0 data recorded at offset=0x4b1000",
        "    4096 bytes in size", "CPU: 0\nentries: 3\noverrun: 0", "```",
        "[   12.345695] Rebooting in 10 seconds.."}) {
    const WholeTrace trace = ReadWhole(good + own + "\n" + good);
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    EXPECT_THAT(trace.events, SizeIs(2)) << own;
  }
  const WholeTrace trace =
      ReadWhole("plugin_kvm.so: cannot be loaded\n\nany text\n" + good);
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.counters.other_lines, 3u);
}

TEST(TextReaderTest, AMarkerMayHaveSeveralLines) {
  const std::string good = kGood;
  const std::string marker =
      "  cat-1 [012] ..... 21.635541: tracing_mark_write: first line\n"
      "second line: mm_page_alloc\nthird [line] = 3.5\n";
  // Also behind an event, and even one that begins like a CPU.
  const WholeTrace trace = ReadWhole(good + marker + good + "fourth\n" + good +
                                     "[001] fifth\n\t[3] = 4\n" + good);
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, SizeIs(4));
  EXPECT_EQ(trace.counters.other_lines, 6u);
  // Of trace_printk, which may be named after anything.
  for (const std::string name : {"f: ", "0: ", "# 1 buf: "}) {
    const WholeTrace printed =
        ReadWhole("  cat-1 [012] ..... 21.635541: " + name + "first\nsecond\n" +
                  good + "third\n" + good);
    EXPECT_TRUE(printed.status.ok()) << printed.message();
    EXPECT_THAT(printed.events, SizeIs(2));
  }
  // Without a marker a line of text is damage.
  EXPECT_THAT(ReadWhole(good + "fourth\n").message(), HasSubstr("t:2: "));
  // What is left of an event is none of its lines.
  for (const std::string rest :
       {"t-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1",
        "mm_page_free: page=1 pfn=0x1f3 order=1", "e: page=1 pfn=0x1f3 order=1",
        "  cat-1 [012] ..... 21.6", "\x01\x02"}) {
    EXPECT_THAT(ReadWhole(good + marker + rest + "\n").message(),
                HasSubstr("t:5: "))
        << rest;
  }
}

TEST(TextReaderTest, ATextWithoutATracersLineIsNoTrace) {
  EXPECT_THAT(ReadWhole("Jan 1 host kernel: booted\nJan 1 up\n").message(),
              HasSubstr("t:1: \"Jan 1 host kernel: booted\": expected TASK"));
  std::string text = "first\n";
  for (int i = 0; i < 5000; ++i) text += "text\n";
  EXPECT_TRUE(ReadWhole(text + kGood).status.ok());
  for (int i = 0; i < 1'000'000; ++i) text += "b\n";
  EXPECT_THAT(ReadWhole(text + kGood).message(), HasSubstr("t:1: \"first\""));
}

TEST(TextReaderTest, ReadsFunctionGraphWithTimes) {
  const std::string fields = "page=1 pfn=0x1f3 order=1 */\n";
  const WholeTrace trace = ReadWhole(
      "# tracer: function_graph\n"
      "   21.635539 |   12)               |  __free_pages() {\n"
      "   21.635540 |   12)               |  /* mm_page_free: " +
      fields + "   21.635541 |   12)   1.250 us    |  }\n");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_THAT(trace.events, ElementsAre(TheFree()));
  EXPECT_THAT(
      ReadWhole(" 12)               |  /* mm_page_free: " + fields).message(),
      AllOf(HasSubstr("t:1: "), HasSubstr("funcgraph-abstime")));
}

// The name has the 15 characters that a task's name may have.
TEST(TextReaderTest, ANameMayBeginLikeAHeader) {
  ExpectFree(
      "[1] 1.234567: a-1001  [012] .....   21.635540: mm_page_free: page=1 "
      "pfn=0x1f3 order=1");
}

TEST(TextReaderTest, OtherFilesAreNotTraces) {
  const WholeTrace trace =
      ReadWhole(std::string("\x7f"
                            "ELF\0\0\0",
                            7));
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(trace.message(),
              HasSubstr("t: must be a trace: the text of ftrace"));
  EXPECT_EQ(OpenTrace("/no/such/file").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenTrace("/").status().code(), absl::StatusCode::kNotFound);
}

TEST(TextReaderTest, AnEndlessLineIsMalformed) {
  const std::string good =
      "  cat-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1f3 order=1\n";
  const WholeTrace trace = ReadWhole(
      good + std::string(size_t{3} << 20, 'x') + "\n" + good, {.skip_bad = 1});
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.counters.bad_lines, 1u);
  EXPECT_THAT(trace.events, ElementsAre(TheFree(), TheFree()));
}

TEST(TextReaderTest, ASignalDoesNotEndReading) {
  const std::string path =
      (std::filesystem::path(testing::TempDir()) / "interrupted.txt").string();
  std::ofstream(path) << kGood << kGood;
  const InterruptedCalls interrupted;
  const auto reader = OpenTrace(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE((*reader)->Next().value().has_value());
  EXPECT_TRUE((*reader)->Next().value().has_value());
  EXPECT_FALSE((*reader)->Next().value().has_value());
  EXPECT_GT(interrupted.failures("open"), 0);
  EXPECT_GT(interrupted.failures("read"), 0);
  std::filesystem::remove(path);
}

TEST(TextReaderTest, OpensAFile) {
  const std::string path =
      (std::filesystem::path(testing::TempDir()) / "text_reader_test.txt")
          .string();
  std::ofstream(path) << "bad\n";
  const auto reader = OpenTrace(path).value();
  const std::string message(reader->Next().status().message());
  EXPECT_THAT(message, HasSubstr(path + ":1: \"bad\""));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace guestmm::text_reader_test
