// trace.extra, and its events among those of the trace beside it.

#include "src/trace/list_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/trace/recording_testing.h"

namespace guestmm::list_events_test {
namespace {

using Kind = TraceEvent::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kFree[] =
    "  cat-1 [001] ..... 10.000005: mm_page_free: page=0 pfn=0x20 order=0\n";
constexpr char kAlloc[] =
    "  cat-1 [001] ..... 10.000005: mm_page_alloc: page=0 pfn=0x30 order=0 "
    "migratetype=1 gfp_flags=GFP_KERNEL\n";
constexpr char kOwnDrain[] =
    "  cat-1 [001] ..... 10.000002: mm_page_pcpu_drain: page=0 pfn=0x40 "
    "order=0 migratetype=1\n";

class ListEventsTest : public RecordingTest {
 protected:
  std::vector<TraceEvent> ReadEvents() {
    const auto reader = OpenTrace(Read()).value();
    std::vector<TraceEvent> events;
    while (true) {
      const auto event = reader->Next();
      status_ = event.status();
      if (!event.ok() || !event->has_value()) break;
      events.push_back(**event);
    }
    counters_ = reader->counters();
    return events;
  }
  // Their kinds and pages, as "a30" for an allocation of page 0x30.
  std::vector<std::string> Events() {
    std::vector<std::string> texts;
    for (const TraceEvent& event : ReadEvents()) {
      constexpr std::string_view kLetters = "afzd";
      texts.push_back(absl::StrFormat("%c%x",
                                      kLetters[static_cast<size_t>(event.kind)],
                                      event.pfn.value()));
    }
    return texts;
  }

  absl::Status status_;
  TraceReadCounters counters_;
};

TEST_F(ListEventsTest, AreReadWithAllTheirFields) {
  Write("trace.extra", "10.5 3 z 115906 1 2 1\n10.500001 12 d 1f 3 0\n");
  EXPECT_THAT(
      ReadEvents(),
      ElementsAre(TraceEvent{.time = std::chrono::milliseconds(10'500),
                             .pfn = Pfn(0x115906),
                             .order = Order(1),
                             .kind = Kind::kZoneAlloc,
                             .migratetype = 2,
                             .cpu = 3},
                  TraceEvent{.time = std::chrono::microseconds(10'500'001),
                             .pfn = Pfn(0x1f),
                             .order = Order(3),
                             .kind = Kind::kDrain,
                             .cpu = 12}));
}

TEST_F(ListEventsTest, OtherKindsAreSkipped) {
  Write("trace.extra", "10.5 0 b 115906 0\n10.6 0 f 115906 0 9 2 1 0\n");
  EXPECT_THAT(Events(), IsEmpty());
  EXPECT_TRUE(status_.ok()) << status_;
}

// A block leaves its zone before it is allocated, and is freed before it is
// drained.
TEST_F(ListEventsTest, AtOneTimeTheyAreAroundTheRequests) {
  Write("trace.txt", std::string(kFree) + kAlloc);
  Write("trace.extra",
        "10.000005 1 z 30 0 1 1\n10.000005 1 d 20 0 1\n10.000006 1 d 21 0 1\n");
  EXPECT_THAT(Events(), ElementsAre("z30", "f20", "a30", "d20", "d21"));
  EXPECT_EQ(counters_.events, 5u);
}

TEST_F(ListEventsTest, ATracesOwnTakeTheirPlace) {
  Write("trace.txt", std::string(kOwnDrain) + kFree);
  Write("trace.extra", "10.000002 1 d 40 0 1\n10.000009 1 d 20 0 1\n");
  EXPECT_THAT(Events(), ElementsAre("d40", "f20"));
}

TEST_F(ListEventsTest, AMalformedLineIsAnErrorWithItsPlace) {
  for (const char* const line :
       {"10.5 0 x 1f 0 1", "10.5 0 d 1f 0", "10.5 0 d 1f 11 1",
        "10.5 0 z 1f 0 1", "10.5 0 d 1f 0 1 1", "10.5 65536 d 1f 0 1",
        "10.5 0 d xyz 0 1", "z"}) {
    Write("trace.extra", std::string("10.4 0 d 1f 0 1\n") + line + "\n");
    EXPECT_THAT(Events(), ElementsAre("d1f")) << line;
    EXPECT_THAT(std::string(status_.message()), HasSubstr("trace.extra:2: "))
        << line;
  }
}

TEST_F(ListEventsTest, MalformedLinesAreSkippedAndCounted) {
  Write("trace.txt", kFree);
  Write("trace.extra", "xx yy\n10.0 1 d 1 0 1\nzz\n");
  const Recording recording = Read();
  const auto counters = [&](uint64_t skip_bad) {
    const auto reader = OpenTrace(recording, {.skip_bad = skip_bad}).value();
    absl::StatusOr<std::optional<TraceEvent>> event = reader->Next();
    while (event.ok() && event->has_value()) event = reader->Next();
    status_ = event.status();
    return reader->counters();
  };
  EXPECT_EQ(counters(2).bad_lines, 2u);
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(counters(2).events, 2u);
  counters(1);
  EXPECT_THAT(std::string(status_.message()), HasSubstr("trace.extra:3: "));
}

}  // namespace
}  // namespace guestmm::list_events_test
