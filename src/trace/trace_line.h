#ifndef GUESTMM_SRC_TRACE_TRACE_LINE_H_
#define GUESTMM_SRC_TRACE_TRACE_LINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "guestmm/trace/trace_event.h"

namespace guestmm::trace {

// What a line of a trace's text was.
enum class TraceLine : uint8_t {
  kEvent,        // event() has it
  kOther,        // not for us
  kBatchedFree,  // said again of a page whose mm_page_free is there too
  kFailedAlloc,
  kLost,  // lost() has how many
  kBad,   // expected() says what should have been there
};

// Takes lines of text apart:
//
//     TASK-PID     [001] .....    21.635540: mm_page_alloc: page=... pfn=0x1
//     ...
//
// from the CPU's bracket outwards, as a task's name may hold anything. No name
// can hold a bracket, a time and an event: it has 15 characters at most.
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
  // GfpFlags::Parse, of few different texts again and again.
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
