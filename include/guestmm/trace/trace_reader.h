#ifndef GUESTMM_TRACE_TRACE_READER_H_
#define GUESTMM_TRACE_TRACE_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm {

// Counts of what a reader has read so far.
struct TraceReadCounters {
  uint64_t events = 0;
  // Events that the kernel dropped, according to the trace ("[LOST 123
  // EVENTS]").
  uint64_t lost = 0;
  // Malformed lines skipped (TraceReadOptions::skip_bad).
  uint64_t bad_lines = 0;
  // Events mm_page_free_batched, which repeat an mm_page_free of the same page.
  uint64_t batched_frees = 0;
  // Failed allocations.
  uint64_t failed_allocs = 0;
  // Lines of other tracepoints, comments and empty lines.
  uint64_t other_lines = 0;

  bool operator==(const TraceReadCounters&) const = default;
};

struct TraceReadOptions {
  // The most malformed lines to skip and count; one more is an error.
  uint64_t skip_bad = 0;
};

// Reads the events of a trace in order, in constant memory.
//
//   auto reader = OpenTrace("trace.txt.zst");
//   while (true) {
//     auto event = (*reader)->Next();
//     if (!event.ok()) return event.status();   // events read so far are good
//     if (!event->has_value()) break;
//     Use(**event);
//   }
class TraceReader {
 public:
  virtual ~TraceReader() = default;

  // The next event; absent at the end. DataLoss for a truncated or damaged
  // trace and InvalidArgument for a malformed line name the file and the line
  // or byte. After an error every call returns it.
  virtual absl::StatusOr<std::optional<TraceEvent>> Next() = 0;
  virtual TraceReadCounters counters() const = 0;

  // The format, for display: "text", "binary, version 1, from trace.txt".
  virtual std::string format() const { return ""; }
  // Decompressed bytes read so far.
  virtual uint64_t bytes() const { return 0; }
};

// Opens a trace and finds out its format: ftrace text (trace, trace_pipe), the
// text of `trace-cmd report` or `perf script`, or the binary form
// (trace_file.h); each plain, gzip or zstd. NotFound or Unavailable if it
// cannot be read, InvalidArgument for any other format.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const std::string& path, const TraceReadOptions& options = {});

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_READER_H_
