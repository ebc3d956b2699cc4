#ifndef GUESTMM_TRACE_TRACE_READER_H_
#define GUESTMM_TRACE_TRACE_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm {

// What a reader met so far.
struct TraceReadCounters {
  uint64_t events = 0;
  // Events that the kernel dropped, as the trace says ("[LOST 123 EVENTS]").
  uint64_t lost = 0;
  // Malformed lines that were skipped (TraceReadOptions::skip_bad).
  uint64_t bad_lines = 0;
  // mm_page_free_batched: each goes along with an mm_page_free of the same
  // page.
  uint64_t batched_frees = 0;
  // Allocations that failed.
  uint64_t failed_allocs = 0;
  // Lines of other tracepoints, comments, empty ones.
  uint64_t other_lines = 0;

  bool operator==(const TraceReadCounters&) const = default;
};

struct TraceReadOptions {
  // So many malformed lines are skipped and counted; one more is an error.
  uint64_t skip_bad = 0;
};

// The events of a trace, one after the other, in constant memory.
//
//   auto reader = OpenTrace("trace.txt.zst");
//   while (true) {
//     auto event = (*reader)->Next();
//     if (!event.ok()) return event.status();   // what was read is good
//     if (!event->has_value()) break;
//     Use(**event);
//   }
class TraceReader {
 public:
  virtual ~TraceReader() = default;

  // The next one; none at the end. DataLoss for what is truncated or damaged,
  // InvalidArgument for a line that is malformed: both name the file, and the
  // line or the place. Errors repeat.
  virtual absl::StatusOr<std::optional<TraceEvent>> Next() = 0;
  virtual TraceReadCounters counters() const = 0;

  // What is read, for people: "text", "binary, version 1, from trace.txt".
  virtual std::string format() const { return ""; }
  // Bytes read so far, as they are before any compression.
  virtual uint64_t bytes() const { return 0; }
};

// Opens a trace, whatever its name: ftrace text (trace, trace_pipe), the text
// of `trace-cmd report` or `perf script`, or the binary form (trace_file.h);
// each plain, gzip or zstd. NotFound or Unavailable if it cannot be read,
// InvalidArgument if it is none of these.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const std::string& path, const TraceReadOptions& options = {});

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_READER_H_
