#ifndef GUESTMM_SRC_TRACE_TRACE_LINE_H_
#define GUESTMM_SRC_TRACE_TRACE_LINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "guestmm/trace/trace_event.h"

namespace guestmm::trace {

// The kinds of lines in a trace's text.
enum class TraceLine : uint8_t {
  kEvent,        // event()
  kOther,        // another tracepoint, a comment, or empty
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
// event.
class TraceLineParser {
 public:
  TraceLine Parse(std::string_view line);

  const TraceEvent& event() const { return event_; }
  uint64_t lost() const { return lost_; }
  const std::string& expected() const { return expected_; }

 private:
  TraceLine ParseWithoutHeader(std::string_view line);
  TraceLine ParseFields(std::string_view fields, TraceEvent::Kind kind);
  TraceLine Bad(std::string_view expected);
  // GfpFlags::Parse with a cache: few different texts repeat.
  uint32_t Flags(std::string_view text);

  TraceEvent event_;
  uint64_t lost_ = 0;
  std::string expected_;

  struct KnownFlags {
    std::string text;
    uint32_t flags = 0;
  };
  std::array<KnownFlags, 256> known_flags_;
};

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_TRACE_LINE_H_
