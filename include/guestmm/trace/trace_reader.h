#ifndef GUESTMM_TRACE_TRACE_READER_H_
#define GUESTMM_TRACE_TRACE_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/trace/trace_event.h"

namespace GUESTMM_EXPORT guestmm {

// Counts of what a reader has read so far. Except `events`, they may run ahead
// of Next by the events that a reader holds to put them in order.
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
  // Lines of other tracepoints, comments, empty lines, and what a tool printed
  // around its events.
  uint64_t other_lines = 0;
  // Last lines without an end. A line that is whole all the same is used; of
  // those that may be cut, e.g. in a number, and are not, the number is
  // `cut_lines`: the text may be truncated.
  uint64_t unended_lines = 0;
  uint64_t cut_lines = 0;
  // Allocations whose gfp flags are not all known (GfpFlags::kUnknown).
  uint64_t unknown_gfp = 0;
  // Events that followed a later one, and were put in order.
  uint64_t reordered = 0;
  // Events that follow a later one all the same, and how much earlier they are
  // at most.
  uint64_t late = 0;
  Nanoseconds late_by{0};

  bool operator==(const TraceReadCounters&) const = default;
  // As of one trace: the sums, and the greater of `late_by`.
  TraceReadCounters& operator+=(const TraceReadCounters& other);
};

struct TraceReadOptions {
  // The most malformed lines to skip and count; one more is an error.
  uint64_t skip_bad = 0;
};

// Reads the events of a trace by time, in constant memory. Events of several
// CPUs that are out of order are sorted, as far as a window of 64 Ki events
// reaches; the rest is counted as `late`. A plain file of text in which the
// events of each CPU are in one piece, as of `cat per_cpu/cpu*/trace`, is read
// twice and merged, however long the pieces are. Where the time of a CPU itself
// goes back by more than a second, another recording begins, perhaps after a
// reboot: its events are `late` and not sorted among those before it.
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
  absl::StatusOr<std::optional<TraceEvent>> Next() {
    if (at_ == run_.size()) {
      if (absl::Status status = Refill(); !status.ok()) return status;
      if (run_.empty()) return std::nullopt;
    }
    return run_[at_++];
  }
  // The next events, as many as the reader has at hand, which last until the
  // next call; none at the end. Errors as those of Next. For loops that are to
  // cost a few ns per event.
  absl::StatusOr<std::span<const TraceEvent>> NextRun() {
    if (at_ == run_.size()) {
      if (absl::Status status = Refill(); !status.ok()) return status;
    }
    return run_.subspan(std::exchange(at_, run_.size()));
  }
  TraceReadCounters counters() const {
    TraceReadCounters counters = CountRuns();
    counters.events -= run_.size() - at_;
    return counters;
  }

  // The format, for display: "text", "binary, version 2, from trace.txt".
  virtual std::string format() const { return ""; }
  // Decompressed bytes read so far.
  virtual uint64_t bytes() const { return 0; }

 private:
  // The next events, which last until the next call; none at the end. After an
  // error every call returns it.
  virtual absl::StatusOr<std::span<const TraceEvent>> ReadRun() = 0;
  // The counters of all events that ReadRun returned.
  virtual TraceReadCounters CountRuns() const = 0;

  // Reads a run. After an error, and at the end, there is none.
  absl::Status Refill() {
    run_ = {};
    at_ = 0;
    absl::StatusOr<std::span<const TraceEvent>> run = ReadRun();
    if (run.ok()) run_ = *run;
    return run.status();
  }

  // What ReadRun returned last; those up to at_ were returned.
  std::span<const TraceEvent> run_;
  size_t at_ = 0;
};

// Opens a trace and finds out its format: ftrace text (trace, trace_pipe), the
// text of `trace-cmd report` or `perf script`, or the binary form
// (trace_file.h); each plain, gzip or zstd. Of a folder its trace.gmtrace,
// trace.txt, trace_pipe or trace, in this order; or its traces of each CPU,
// read as one: files cpuN or trace.cpuN (also .txt, .gz, .zst), or folders cpuN
// with a trace, as in tracefs' per_cpu, or in a folder per_cpu; `options` hold
// for each. NotFound or Unavailable if it cannot be read, InvalidArgument for
// any other format.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const std::string& path, const TraceReadOptions& options = {});

// The same of several traces of one guest, merged by time. REQUIRES: at least
// one.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTraces(
    std::span<const std::string> paths, const TraceReadOptions& options = {});

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_READER_H_
