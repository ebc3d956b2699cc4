#include "guestmm/trace/trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "src/trace/trace_block.h"
#include "tests/trace/trace_testing.h"

namespace guestmm::trace_file_test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using trace::ReadWhole;
using trace::SomeEvents;
using trace::WholeTrace;

class TraceFileTest : public testing::Test {
 protected:
  TraceFileTest()
      : path_((fs::path(testing::TempDir()) /
               (std::string("trace_file_") +
                testing::UnitTest::GetInstance()->current_test_info()->name()))
                  .string()) {}
  ~TraceFileTest() override { fs::remove(path_); }

  // The bytes of a file of these events.
  std::string Written(const std::vector<TraceEvent>& events,
                      const TraceFileOptions& options = {},
                      const TraceReadCounters& counters = {}) const {
    const auto writer = TraceFileWriter::Create(path_, options).value();
    for (const TraceEvent& event : events) {
      EXPECT_TRUE(writer->Add(event).ok());
    }
    EXPECT_TRUE(writer->Finish(counters).ok());
    const std::string bytes = Contents();
    EXPECT_EQ(writer->file_bytes(), bytes.size());
    return bytes;
  }
  std::string Contents() const {
    std::ostringstream bytes;
    bytes << std::ifstream(path_, std::ios::binary).rdbuf();
    return bytes.str();
  }

  const std::string path_;
};

TEST_F(TraceFileTest, EventsAreReadAsWritten) {
  for (const int count : {0, 1, 2, 100, 8192, 8193, 20'000}) {
    for (const int64_t unit : {1, 1000}) {
      const std::vector<TraceEvent> events = SomeEvents(count, unit);
      const WholeTrace trace = ReadWhole(Written(events));
      EXPECT_TRUE(trace.status.ok()) << trace.message();
      EXPECT_TRUE(trace.events == events) << count << " " << unit;
      EXPECT_EQ(trace.counters.events, events.size());
    }
  }
}

TEST_F(TraceFileTest, ExtremesAreReadAsWritten) {
  std::vector<TraceEvent> events(4);
  events[0].time = Nanoseconds(std::numeric_limits<int64_t>::min());
  events[1].time = Nanoseconds(std::numeric_limits<int64_t>::max());
  events[1].pfn = Pfn((uint64_t{1} << 40) - 1);
  events[1].order = kMaxOrder;
  events[2] = {.time = Nanoseconds(-1),
               .kind = TraceEvent::Kind::kFree,
               .migratetype = 255,
               .cpu = 65535,
               .gfp = ~uint32_t{0}};
  // In order of time, but for the last: CPU 0's time goes back.
  EXPECT_THAT(ReadWhole(Written(events)).events,
              ElementsAre(events[0], events[2], events[1], events[3]));
}

TEST_F(TraceFileTest, HoldsMoreThan256KindsOfEvents) {
  std::vector<TraceEvent> events = SomeEvents(3000);
  for (size_t i = 0; i < events.size(); ++i) {
    events[i].cpu = static_cast<uint16_t>(i % 700);
  }
  EXPECT_TRUE(ReadWhole(Written(events)).events == events);
}

TEST_F(TraceFileTest, KeepsTheCountersOfItsSource) {
  const TraceReadCounters counters = {.events = 99,
                                      .lost = 1,
                                      .bad_lines = 2,
                                      .batched_frees = 3,
                                      .failed_allocs = 4,
                                      .other_lines = uint64_t{1} << 60,
                                      .unended_lines = 1,
                                      .cut_lines = 1,
                                      .reordered = 7};
  TraceReadCounters expected = counters;
  expected.events = 10;  // as written
  EXPECT_EQ(ReadWhole(Written(SomeEvents(10), {}, counters)).counters,
            expected);
}

TEST_F(TraceFileTest, NamesItsSource) {
  Written(SomeEvents(1), {.source = "trace.txt"});
  const auto reader = OpenTrace(path_).value();
  EXPECT_EQ(reader->format(), "binary, version 2, from trace.txt");
}

TEST_F(TraceFileTest, IsReadThroughGzipToo) {
  const std::vector<TraceEvent> events = SomeEvents(1000);
  EXPECT_TRUE(ReadWhole(trace::Gzipped(Written(events))).events == events);
}

TEST_F(TraceFileTest, TakesAtMostEightBytesAnEvent) {
  const auto writer = TraceFileWriter::Create(path_).value();
  for (const TraceEvent& event : SomeEvents(10'000)) {
    ASSERT_TRUE(writer->Add(event).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_LE(writer->encoded_bytes(), 8 * writer->events());
}

TEST_F(TraceFileTest, IsNeverIncomplete) {
  {
    const auto writer = TraceFileWriter::Create(path_).value();
    EXPECT_TRUE(writer->Add({}).ok());
    EXPECT_FALSE(fs::exists(path_));
  }
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_EQ(TraceFileWriter::Create("/no/such/folder/x").status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(TraceFileTest, RefusesEventsAndOptionsOutOfBounds) {
  const auto writer = TraceFileWriter::Create(path_).value();
  EXPECT_EQ(writer->Add({.order = Order(11)}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Add({.pfn = Pfn(uint64_t{1} << 40)}).code(),
            absl::StatusCode::kInvalidArgument);
  for (const TraceFileOptions& options :
       {TraceFileOptions{.level = 0}, TraceFileOptions{.level = 20},
        TraceFileOptions{.block_events = 0},
        TraceFileOptions{.block_events = 65537},
        TraceFileOptions{.source = std::string(4097, 'x')}}) {
    EXPECT_EQ(TraceFileWriter::Create(path_, options).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(TraceFileWriter::Create(path_, {.level = 20}).status().message(),
            "--level=20: must be 1 to 19");
  EXPECT_EQ(
      TraceFileWriter::Create(path_, {.block_events = 0}).status().message(),
      "--block-events=0: must be 1 to 65536");
  EXPECT_EQ(TraceFileWriter::Create(path_, {.source = std::string(4097, 'x')})
                .status()
                .message(),
            "source: must be at most 4096 bytes; it has 4097");
}

TEST_F(TraceFileTest, TruncatedAnywhereItsWholeBlocksAreRead) {
  const std::vector<TraceEvent> events = SomeEvents(60);
  const std::string whole =
      Written(events, {.source = "x", .block_events = 20});
  size_t most = 0;
  for (size_t size = 1; size < whole.size(); ++size) {
    const WholeTrace trace = ReadWhole(whole.substr(0, size));
    EXPECT_EQ(trace.status.code(), absl::StatusCode::kDataLoss) << size;
    EXPECT_THAT(trace.message(),
                AllOf(HasSubstr("t: "), HasSubstr("truncated")));
    EXPECT_EQ(trace.events.size() % 20, 0u);
    EXPECT_TRUE(
        std::equal(trace.events.begin(), trace.events.end(), events.begin()));
    EXPECT_GE(trace.events.size(), most);
    most = trace.events.size();
  }
  EXPECT_EQ(most, 60u);
}

TEST_F(TraceFileTest, ADamagedByteIsDetected) {
  const std::vector<TraceEvent> events = SomeEvents(60);
  const std::string whole =
      Written(events, {.source = "x", .block_events = 20});
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const WholeTrace trace = ReadWhole(damaged);
      EXPECT_FALSE(trace.status.ok()) << at;
      EXPECT_THAT(trace.message(), HasSubstr("t: "));
      EXPECT_EQ(trace.events.size() % 20, 0u);
      EXPECT_TRUE(
          std::equal(trace.events.begin(), trace.events.end(), events.begin()));
    }
  }
}

TEST_F(TraceFileTest, BytesBehindTheEndAreAnError) {
  const std::string whole = Written(SomeEvents(5));
  const WholeTrace trace = ReadWhole(whole + "x");
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(trace.message(), HasSubstr("what follows the end"));
  EXPECT_THAT(trace.events, SizeIs(5));
}

TEST_F(TraceFileTest, AnotherVersionIsRefused) {
  std::string whole = Written(SomeEvents(5));
  whole[trace::kTraceFileMagic.size()] = 3;
  const WholeTrace trace = ReadWhole(whole);
  EXPECT_EQ(trace.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(trace.message(),
            "t: version 3 of the binary form: expected 1 to 2");
}

// It is version 2 without what lists and zones exchange.
TEST_F(TraceFileTest, VersionOneIsRead) {
  const std::vector<TraceEvent> events = SomeEvents(5);
  std::string whole = Written(events);
  const size_t head = trace::kTraceFileMagic.size() + 8;
  whole[trace::kTraceFileMagic.size()] = 1;
  std::string crc;
  trace::AppendU32(crc, trace::Crc32(whole.substr(0, head)));
  whole.replace(head, crc.size(), crc);
  EXPECT_TRUE(ReadWhole(whole).events == events);
}

// Checksums do not stop a crafted file.
TEST_F(TraceFileTest, TheContentsOfABlockAreChecked) {
  const std::vector<TraceEvent> events = SomeEvents(30);
  const std::string block = trace::EncodeBlock(events);
  const std::string padding(trace::kBlockPadding, '\0');
  std::vector<TraceEvent> decoded;
  ASSERT_TRUE(trace::DecodeBlock(block + padding, 30, decoded).ok());
  EXPECT_TRUE(decoded == events);
  for (const size_t count : {0, 1, 29, 31, 70'000}) {
    EXPECT_FALSE(trace::DecodeBlock(block + padding, count, decoded).ok());
  }
  for (size_t size = 0; size < block.size(); ++size) {
    EXPECT_FALSE(
        trace::DecodeBlock(block.substr(0, size) + padding, 30, decoded).ok())
        << size;
    EXPECT_THAT(decoded, IsEmpty());
  }
}

}  // namespace
}  // namespace guestmm::trace_file_test
