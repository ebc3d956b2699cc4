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
#include "tests/trace/trace_testing.h"

namespace guestmm::text_reader_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using trace::Gzipped;
using trace::ReadWhole;
using trace::SomeEvents;
using trace::WholeTrace;
using trace::Zstandard;

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

void ExpectBad(const std::string& line, const std::string& expected) {
  const WholeTrace trace = ReadLine(line);
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kInvalidArgument) << line;
  EXPECT_THAT(trace.message(),
              AllOf(HasSubstr("t:1: \""), HasSubstr("expected " + expected)));
  const WholeTrace skipped = ReadLine(line, {.skip_bad = 1});
  EXPECT_TRUE(skipped.status.ok());
  EXPECT_EQ(skipped.counters.bad_lines, 1u);
  EXPECT_THAT(skipped.events, IsEmpty());
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
        "mm_page_alloc_zone_locked: page=1 pfn=0x1 order=0 migratetype=1",
        "mm_page_alloc_extfrag: page=1 pfn=0x1 alloc_order=0",
        "mm_page_pcpu_drain: page=1 pfn=0x1 order=0 migratetype=1",
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
  ExpectBad("  cat-1 [012] ..... 21635540: mm_page_free: pfn=1", line);
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
  const std::string good =
      "  cat-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1f3 order=1\n";
  const std::string text = "bad\n" + good + "bad\n" + good + "bad\n" + good;
  WholeTrace trace = ReadWhole(text, {.skip_bad = 3});
  EXPECT_TRUE(trace.status.ok());
  EXPECT_THAT(trace.events, SizeIs(3));
  EXPECT_EQ(trace.counters.bad_lines, 3u);
  trace = ReadWhole(text, {.skip_bad = 2});
  EXPECT_THAT(trace.message(), HasSubstr("t:5: \"bad\""));
  EXPECT_THAT(trace.events, SizeIs(2));
}

TEST(TextReaderTest, AnEmptyTextIsATraceWithoutEvents) {
  const WholeTrace trace = ReadWhole("");
  EXPECT_TRUE(trace.status.ok());
  EXPECT_THAT(trace.events, IsEmpty());
}

TEST(TextReaderTest, ALastLineWithoutAnEndIsTruncated) {
  const WholeTrace trace = ReadWhole(
      "  cat-1 [012] ..... 21.635540: mm_page_free: page=1 pfn=0x1f3 order=1");
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(trace.message(),
              AllOf(HasSubstr("t:1: "), HasSubstr("truncated")));
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
  EXPECT_EQ(OpenTrace("/").status().code(), absl::StatusCode::kUnavailable);
}

// Long enough for lines and blocks to cross the readers' buffers.
std::string LongText(const std::vector<TraceEvent>& events) {
  std::ostringstream text;
  for (const TraceEvent& event : events) text << event << "\n";
  return text.str();
}

TEST(TextReaderTest, IsReadPlainGzipAndZstd) {
  const std::vector<TraceEvent> events = SomeEvents(20'000);
  const std::string text = LongText(events);
  ASSERT_GT(text.size(), size_t{1} << 20);
  const std::string half = text.substr(0, text.size() / 2);
  const std::string rest = text.substr(text.size() / 2);
  for (const std::string& bytes :
       {text, Gzipped(text), Zstandard(text), Gzipped(half) + Gzipped(rest),
        Zstandard(half) + Zstandard(rest)}) {
    const WholeTrace trace = ReadWhole(bytes);
    EXPECT_TRUE(trace.status.ok()) << trace.message();
    EXPECT_TRUE(trace.events == events);
  }
}

TEST(TextReaderTest, EventsBeforeATruncationAreRead) {
  const std::vector<TraceEvent> events = SomeEvents(20'000);
  const std::string text = LongText(events);
  for (const std::string& whole : {Gzipped(text), Zstandard(text)}) {
    const WholeTrace trace = ReadWhole(whole.substr(0, whole.size() * 3 / 4));
    EXPECT_EQ(trace.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(trace.message(),
                AllOf(HasSubstr("t: the "), HasSubstr("truncated after"),
                      HasSubstr("after line")));
    EXPECT_GT(trace.events.size(), 10'000u);
    EXPECT_TRUE(
        std::equal(trace.events.begin(), trace.events.end(), events.begin()));
  }
}

TEST(TextReaderTest, TruncatedAtAnyByteIsAnError) {
  const std::string text = LongText(SomeEvents(5));
  for (const std::string& whole : {Gzipped(text), Zstandard(text)}) {
    for (size_t size = 4; size < whole.size(); ++size) {
      EXPECT_EQ(ReadWhole(whole.substr(0, size)).status.code(),
                absl::StatusCode::kDataLoss)
          << size;
    }
  }
}

TEST(TextReaderTest, ADamagedByteIsDetectedOrHarmless) {
  const std::vector<TraceEvent> events = SomeEvents(5);
  const std::string text = LongText(events);
  for (const std::string& whole : {Gzipped(text), Zstandard(text)}) {
    for (size_t at = 0; at < whole.size(); ++at) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
      const WholeTrace trace = ReadWhole(damaged);
      EXPECT_TRUE(!trace.status.ok() || trace.events == events) << at;
    }
  }
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
