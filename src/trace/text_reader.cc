#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"
#include "src/trace/byte_source.h"
#include "src/trace/line_reader.h"
#include "src/trace/open_trace.h"
#include "src/trace/trace_line.h"

namespace guestmm::trace {
namespace {

class TextReader final : public TraceReader {
 public:
  TextReader(std::unique_ptr<ByteSource> bytes, const std::string& name,
             const TraceReadOptions& options)
      : lines_(std::move(bytes), name), options_(options) {}

  std::string format() const override { return "text"; }
  uint64_t bytes() const override { return lines_.bytes(); }

 private:
  // One event at a time.
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    if (!error_.ok()) return error_;
    std::string_view line;
    while (lines_.Next(line)) {
      TraceLine what = parser_.Parse(line);
      bool cut_off = false;
      if (!lines_.complete()) [[unlikely]] {
        ++counters_.unended_lines;
        cut_off = MayBeCut(line, what);
        if (cut_off) what = TraceLine::kBad;
      }
      switch (what) {
        case TraceLine::kEvent:
          ++counters_.events;
          return std::span(&parser_.event(), 1);
        case TraceLine::kText:
          ++counters_.other_lines;
          if (parser_.has_begun() || TakesHeading(line)) break;
          return error_;
        case TraceLine::kOther:
          ++counters_.other_lines;
          break;
        case TraceLine::kBatchedFree:
          ++counters_.batched_frees;
          break;
        case TraceLine::kFailedAlloc:
          ++counters_.failed_allocs;
          break;
        case TraceLine::kLost:
          counters_.lost += parser_.lost();
          break;
        case TraceLine::kBad:
          if (cut_off) ++counters_.cut_lines;
          if (counters_.bad_lines < options_.skip_bad) {
            ++counters_.bad_lines;
            break;
          }
          error_ = cut_off ? CutOff(line) : Malformed(line);
          return error_;
      }
    }
    if (!lines_.status().ok()) {
      error_ = absl::Status(lines_.status().code(),
                            absl::StrCat(std::string{lines_.status().message()},
                                         ", after line ", lines_.number()));
      return error_;
    }
    if (!parser_.has_begun() && !no_trace_.ok()) {
      error_ = no_trace_;
      return error_;
    }
    return std::span<const TraceEvent>();
  }
  TraceReadCounters CountRuns() const override { return counters_; }

  // True for a last line, without its end, that may lack more than that. A
  // field that is whole: names of flags, an order that no digit can follow.
  bool MayBeCut(std::string_view line, TraceLine what) const {
    const std::string_view last = line.substr(line.find_last_of(" \t") + 1);
    switch (what) {
      case TraceLine::kBad:
        return true;
      case TraceLine::kText:
        return parser_.has_begun();
      case TraceLine::kOther:
        // Of the name of an event of ours, the beginning.
        return std::string_view("mm_page_alloc_zone_locked:")
                   .starts_with(last) ||
               std::string_view("mm_page_alloc:").starts_with(last) ||
               std::string_view("mm_page_free:").starts_with(last) ||
               std::string_view("mm_page_pcpu_drain:").starts_with(last);
      case TraceLine::kEvent:
        if (last.starts_with("gfp_flags=")) {
          return (parser_.event().gfp & GfpFlags::kUnknown) != 0;
        }
        // Orders end at 10.
        return last == "order=1" ||
               !(last.starts_with("order=") ||
                 last.starts_with("migratetype=") ||
                 last.starts_with("percpu_refill=") || last == "*/");
      default:
        return false;
    }
  }

  // Takes a line of free text ahead of the first event. False, setting the
  // error, after more of them than any tool prints: the text is no trace.
  bool TakesHeading(std::string_view line) {
    constexpr int kMostLines = 1'000'000;
    if (heading_++ == 0) {
      no_trace_ = lines_.Expected(
          line, "TASK-PID [CPU] SECONDS.MICROSECONDS: EVENT: FIELDS");
    }
    if (heading_ <= kMostLines) return true;
    error_ = no_trace_;
    return false;
  }

  absl::Status Malformed(std::string_view line) const {
    return lines_.Expected(line, parser_.expected());
  }
  absl::Status CutOff(std::string_view line) const {
    return absl::DataLossError(absl::StrCat(
        lines_.Place(), ": ", LineReader::Shown(line),
        ": expected an end of the last line: the trace is truncated"));
  }

  LineReader lines_;
  const TraceReadOptions options_;
  TraceLineParser parser_;
  TraceReadCounters counters_;
  // Lines of free text ahead of the first event, and the error if none comes.
  int heading_ = 0;
  absl::Status no_trace_;
  absl::Status error_;
};

}  // namespace

std::unique_ptr<TraceReader> MakeTextReader(std::unique_ptr<ByteSource> bytes,
                                            const std::string& name,
                                            const TraceReadOptions& options) {
  return std::make_unique<TextReader>(std::move(bytes), name, options);
}

}  // namespace guestmm::trace
