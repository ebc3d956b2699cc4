#ifndef GUESTMM_SRC_TRACE_TRACE_LINE_H_
#define GUESTMM_SRC_TRACE_TRACE_LINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "guestmm/base/clock.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm::trace {

// The kinds of lines in a trace's text.
enum class TraceLine : uint8_t {
  kEvent,        // event()
  kOther,        // another tracepoint, a tool's own line, or empty
  kText,         // free text, where one may be
  kBatchedFree,  // repeats an mm_page_free of the same page
  kFailedAlloc,
  kLost,  // lost() events were dropped
  kBad,   // malformed; expected() says what was expected
};

// Parses lines of text:
//
//     TASK-PID     [001] .....    21.635540: mm_page_alloc: page=... pfn=0x1
//     ...
//
// from the CPU's bracket outwards, since a task's name may contain anything.
// With at most 15 characters no name can contain a bracket, a time and an
// event. The function_graph tracer prints events as comments:
//
//     1000.105144 |   1)               |  /* mm_page_free: page=... */
//
// Free text may be ahead of the first event, where tools print what they like,
// behind another tracepoint's line, and everywhere once there was a marker,
// which may have several lines, even ones that other CPUs' events come between.
// A line that resembles an event is never text.
class TraceLineParser {
 public:
  TraceLine Parse(std::string_view line);

  // True once there was a line of a tracer. Without one a text is no trace.
  bool has_begun() const { return has_begun_; }

  const TraceEvent& event() const { return event_; }
  uint64_t lost() const { return lost_; }
  const std::string& expected() const { return expected_; }

 private:
  TraceLine ParseWithoutHeader(std::string_view line);
  // The text of a function_graph line behind its time, if it has one.
  TraceLine ParseGraph(std::string_view text, std::optional<Nanoseconds> time);
  TraceLine ParseEvent(std::string_view text);
  TraceLine ParseFields(std::string_view fields, TraceEvent::Kind kind);
  TraceLine Bad(std::string_view expected);
  // GfpFlags::Parse with a cache: few different texts repeat.
  uint32_t Flags(std::string_view text);

  TraceEvent event_;
  uint64_t lost_ = 0;
  std::string expected_;
  bool has_begun_ = false;
  // Free text may follow: the next line, or each.
  bool may_be_text_ = true;
  bool has_marker_ = false;

  struct KnownFlags {
    std::string text;
    uint32_t flags = 0;
  };
  std::array<KnownFlags, 256> known_flags_;
};

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_TRACE_LINE_H_
