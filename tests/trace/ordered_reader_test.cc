#include "src/trace/ordered_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "guestmm/trace/trace_reader.h"
#include "src/trace/cpu_runs.h"
#include "src/trace/find_trace.h"
#include "tests/trace/trace_testing.h"

namespace guestmm::trace::ordered_reader_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A line of CPU `cpu`; its pfn is the time in milliseconds.
std::string Line(int cpu, int ms, const std::string& gfp = "GFP_KERNEL") {
  const std::string digits = std::to_string(1000 + ms % 1000).substr(1);
  return "  sh-1 [00" + std::to_string(cpu) + "] ..... " +
         std::to_string(ms / 1000) + "." + digits +
         "000: mm_page_alloc: pfn=" + std::to_string(ms) +
         " order=0 migratetype=0 gfp_flags=" + gfp + "\n";
}

std::vector<uint64_t> PfnsOf(const WholeTrace& trace) {
  std::vector<uint64_t> pfns;
  for (const TraceEvent& event : trace.events) {
    pfns.push_back(event.pfn.value());
  }
  return pfns;
}

TEST(OrderedReaderTest, PutsEventsInOrder) {
  const WholeTrace trace =
      ReadWhole(Line(0, 1) + Line(0, 4) + Line(1, 2) + Line(1, 3) + Line(0, 9));
  EXPECT_THAT(PfnsOf(trace), ElementsAre(1, 2, 3, 4, 9));
  EXPECT_EQ(trace.counters.events, 5u);
  EXPECT_EQ(trace.counters.reordered, 2u);
  EXPECT_EQ(trace.counters.late, 0u);
}

// The buffers of CPUs one after another, as of per_cpu/cpu*/trace.
TEST(OrderedReaderTest, SortsWholeBuffers) {
  const WholeTrace trace =
      ReadWhole(Line(0, 1000) + Line(0, 9000) + Line(1, 500) + Line(1, 8000));
  EXPECT_THAT(PfnsOf(trace), ElementsAre(500, 1000, 8000, 9000));
}

TEST(OrderedReaderTest, ARestartIsLate) {
  const WholeTrace trace = ReadWhole(Line(0, 5000) + Line(1, 7000) +
                                     Line(0, 10) + Line(0, 6000) + Line(1, 30));
  EXPECT_THAT(PfnsOf(trace), ElementsAre(5000, 7000, 10, 30, 6000));
  EXPECT_EQ(trace.counters.late, 3u);
  EXPECT_EQ(trace.counters.late_by, std::chrono::milliseconds(6990));
  EXPECT_EQ(trace.counters.reordered, 0u);
}

TEST(OrderedReaderTest, SortsAsFarAsItsWindowReaches) {
  constexpr int kHalf = 32 << 10;
  std::string text;
  for (int ms = 0; ms < 3 * kHalf; ++ms) text += Line(0, ms);
  WholeTrace trace = ReadWhole(text + Line(1, 2 * kHalf + 100));
  EXPECT_EQ(trace.counters.reordered, 1u);
  EXPECT_EQ(trace.counters.late, 0u);
  EXPECT_EQ(trace.events[2 * kHalf + 101].cpu, 1);
  trace = ReadWhole(text + Line(1, 5) + Line(0, 3 * kHalf));
  EXPECT_EQ(trace.counters.reordered, 0u);
  EXPECT_EQ(trace.counters.late, 1u);
  EXPECT_EQ(trace.events.size(), size_t{3} * kHalf + 2);
}

TEST(OrderedReaderTest, EventsBeforeAnErrorAreRead) {
  const WholeTrace trace = ReadWhole(Line(0, 4) + Line(1, 2) + "bad\n");
  EXPECT_FALSE(trace.status.ok());
  EXPECT_THAT(PfnsOf(trace), ElementsAre(2, 4));
}

TEST(OrderedReaderTest, CountsAllocationsWithUnknownFlags) {
  const WholeTrace trace =
      ReadWhole(Line(0, 1) + Line(0, 2, "GFP_NEW") + Line(0, 3, "0x8000cc0"));
  EXPECT_EQ(trace.counters.unknown_gfp, 2u);
}

class PerCpuTest : public testing::Test {
 protected:
  PerCpuTest() : folder_(testing::TempDir() + "per_cpu_XXXXXX") {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
  }
  ~PerCpuTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) const {
    const auto path = std::filesystem::path(folder_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  static std::vector<uint64_t> PfnsOf(TraceReader& reader) {
    std::vector<uint64_t> pfns;
    while (const auto event = reader.Next().value()) {
      pfns.push_back(event->pfn.value());
    }
    return pfns;
  }
  static std::vector<uint64_t> Pfns(const std::string& path) {
    return PfnsOf(*OpenTrace(path).value());
  }

  std::string folder_;
};

TEST_F(PerCpuTest, FilesAreMergedByTime) {
  Write("cpu0/trace", Line(0, 1) + Line(0, 4));
  Write("trace.cpu10.txt", Line(1, 3) + Line(1, 4, "GFP_NEW"));
  Write("cpu2.gz", Gzipped(Line(2, 2) + Line(2, 9)));
  Write("notes.txt", "not a trace");
  EXPECT_THAT(PerCpuTraces(folder_).value(),
              ElementsAre(folder_ + "/cpu0/trace", folder_ + "/cpu2.gz",
                          folder_ + "/trace.cpu10.txt"));
  const auto reader = OpenTrace(folder_).value();
  EXPECT_THAT(PfnsOf(*reader), ElementsAre(1, 2, 3, 4, 4, 9));
  EXPECT_EQ(reader->counters().events, 6u);
  EXPECT_EQ(reader->counters().unknown_gfp, 1u);
  EXPECT_EQ(reader->format(), "3 files, the first text");
}

TEST_F(PerCpuTest, ARecordingsFolderIsRead) {
  Write("per_cpu/cpu0/trace", Line(0, 1) + Line(0, 4));
  Write("per_cpu/cpu1/trace.gz", Gzipped(Line(1, 3)));
  std::filesystem::create_directory(folder_ + "/per_cpu/cpu2");
  EXPECT_THAT(Pfns(folder_), ElementsAre(1, 3, 4));
  EXPECT_THAT(Pfns(folder_ + "/per_cpu"), ElementsAre(1, 3, 4));
  // The trace of all CPUs comes first.
  Write("trace.gz", Gzipped(Line(0, 7)));
  EXPECT_THAT(Pfns(folder_), ElementsAre(7));
  std::filesystem::remove_all(folder_ + "/per_cpu");
  std::filesystem::remove(folder_ + "/trace.gz");
  EXPECT_EQ(OpenTrace(folder_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PerCpuTest, SeveralTracesAreMerged) {
  Write("a", Line(0, 1) + Line(0, 4));
  Write("b.gz", Gzipped(Line(1, 3)));
  const std::string paths[] = {folder_ + "/b.gz", folder_ + "/a"};
  const auto reader = OpenTraces(paths).value();
  EXPECT_THAT(PfnsOf(*reader), ElementsAre(1, 3, 4));
  EXPECT_EQ(reader->format(), "2 files, the first text");
}

// Longer than the window of what is sorted as it is read.
TEST_F(PerCpuTest, CpusOneAfterAnotherAreMerged) {
  constexpr int kEach = 70'000;
  std::string text;
  for (const int cpu : {1, 0}) {
    text += "# tracer: nop\n#\n";
    for (int i = 0; i < kEach; ++i) text += Line(cpu, 2 * i + cpu);
    text += "CPU:" + std::to_string(cpu) + " [LOST 5 EVENTS]\n";
  }
  Write("trace", text);
  const std::string path = folder_ + "/trace";
  const auto reader = OpenTrace(path).value();
  const std::vector<uint64_t> pfns = PfnsOf(*reader);
  ASSERT_EQ(pfns.size(), 2u * kEach);
  for (size_t i = 0; i < pfns.size(); ++i) ASSERT_EQ(pfns[i], i);
  TraceReadCounters expected;
  expected.events = pfns.size();
  expected.lost = 10;
  expected.other_lines = 4;
  EXPECT_EQ(reader->counters(), expected);
  EXPECT_EQ(reader->bytes(), text.size());
  EXPECT_EQ(reader->format(), "text, 2 CPUs one after another");
}

// What is in order is in one run, whatever came before it by Next; an event
// that is late begins another, so that it is counted when it is returned.
TEST(OrderedReaderTest, RunsAndSingleEventsAreTheSame) {
  const auto line = [](int microseconds, int pfn) {
    return "t-1 [000] 1." + std::to_string(100'000 + microseconds) +
           ": mm_page_free: pfn=" + std::to_string(pfn) + " order=0\n";
  };
  std::string text;
  for (int i = 0; i < 70'000; ++i) text += line(2 * i, i);
  text += line(1, 70'000) + line(140'000, 70'001);
  const auto source = [&] { return BytesOf(text, "t").value(); };
  const auto single = OpenTraceFrom(source(), "t").value();
  const auto runs = OpenTraceFrom(source(), "t").value();
  EXPECT_EQ(runs->Next().value()->pfn, single->Next().value()->pfn);
  uint64_t read = 1;
  uint64_t late_in_runs = 0;
  while (true) {
    const auto run = runs->NextRun();
    ASSERT_TRUE(run.ok());
    if (run->empty()) break;
    for (const TraceEvent& event : *run) {
      ASSERT_EQ(single->Next().value(), event);
      ASSERT_EQ(single->counters().events, ++read);
    }
    EXPECT_EQ(runs->counters().events, read);
    if (runs->counters().late > late_in_runs) {
      EXPECT_EQ(run->front().pfn, Pfn(70'000));
    }
    late_in_runs = runs->counters().late;
    EXPECT_EQ(single->counters().late, late_in_runs);
  }
  EXPECT_EQ(single->Next().value(), std::nullopt);
  EXPECT_EQ(read, 70'002u);
  EXPECT_EQ(late_in_runs, 1u);
}

TEST_F(PerCpuTest, RunsAreFoundInPlainTextOfSeveralCpus) {
  const auto runs = [&](const std::string& text,
                        const TraceReadOptions& options = {}) {
    Write("t", text);
    return FindCpuRuns(folder_ + "/t", options);
  };
  const std::string zero = Line(0, 1) + Line(0, 4);
  const std::string one = Line(1, 2);
  const uint64_t end = zero.size();
  EXPECT_THAT(runs(zero + "#\n" + one),
              ElementsAre(CpuRun{.begin = 0, .end = end},
                          CpuRun{.begin = end, .end = end + 2 + one.size()}));
  EXPECT_THAT(runs(zero), IsEmpty());
  EXPECT_THAT(runs(zero + one + zero), IsEmpty());
  EXPECT_THAT(runs(zero + one + Line(2, 9) + Line(1, 10)), IsEmpty());
  EXPECT_THAT(runs(Gzipped(zero + one)), IsEmpty());
  EXPECT_THAT(runs(zero + one + "bad\n"), IsEmpty());
  EXPECT_THAT(runs(zero + one + "bad\n", {.skip_bad = 1}), testing::SizeIs(2));
  EXPECT_THAT(runs(""), IsEmpty());
  EXPECT_THAT(FindCpuRuns("/dev/null", {}), IsEmpty());
}

TEST_F(PerCpuTest, AnErrorOfOneEndsAll) {
  Write("cpu0", Line(0, 1));
  Write("cpu1", Line(1, 2) + "bad\n");
  const auto reader = OpenTrace(folder_).value();
  EXPECT_EQ(reader->Next().value()->pfn, Pfn(1));
  EXPECT_EQ(reader->Next().value()->pfn, Pfn(2));
  EXPECT_FALSE(reader->Next().ok());
  EXPECT_FALSE(reader->Next().ok());
  EXPECT_THAT(PerCpuTraces("/no/such").value(), IsEmpty());
}

}  // namespace
}  // namespace guestmm::trace::ordered_reader_test
