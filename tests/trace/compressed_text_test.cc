// Compressed texts: whole, padded, cut off and damaged.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "tests/trace/trace_testing.h"

namespace guestmm::compressed_text_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using trace::Gzipped;
using trace::LongText;
using trace::ReadWhole;
using trace::SomeEvents;
using trace::WholeTrace;
using trace::Zstandard;

TEST(CompressedTextTest, IsReadPlainGzipAndZstd) {
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

TEST(CompressedTextTest, MayBePadded) {
  const std::string good = LongText(SomeEvents(1));
  for (const std::string& whole : {Gzipped(good), Zstandard(good)}) {
    // Also of more than is read at once.
    for (const size_t bytes : {512, 300'000}) {
      const std::string zeroes(bytes, '\0');
      const WholeTrace trace = ReadWhole(whole + zeroes + whole + zeroes);
      EXPECT_TRUE(trace.status.ok()) << trace.message();
      EXPECT_THAT(trace.events, SizeIs(2));
      EXPECT_THAT(ReadWhole(whole + zeroes + "junk").message(),
                  HasSubstr("damaged"));
    }
  }
}

TEST(CompressedTextTest, EventsBeforeATruncationAreRead) {
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

TEST(CompressedTextTest, TruncatedAtAnyByteIsAnError) {
  const std::string text = LongText(SomeEvents(5));
  for (const std::string& whole : {Gzipped(text), Zstandard(text)}) {
    for (size_t size = 4; size < whole.size(); ++size) {
      EXPECT_EQ(ReadWhole(whole.substr(0, size)).status.code(),
                absl::StatusCode::kDataLoss)
          << size;
    }
  }
}

TEST(CompressedTextTest, ADamagedByteIsDetectedOrHarmless) {
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

}  // namespace
}  // namespace guestmm::compressed_text_test
