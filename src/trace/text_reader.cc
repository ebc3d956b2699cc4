#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
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

  absl::StatusOr<std::optional<TraceEvent>> Next() override {
    if (!error_.ok()) return error_;
    std::string_view line;
    while (lines_.Next(line)) {
      TraceLine what = parser_.Parse(line);
      // A line without an end may be truncated within a number.
      const bool cut_off = !lines_.complete();
      if (cut_off) what = TraceLine::kBad;
      switch (what) {
        case TraceLine::kEvent:
          ++counters_.events;
          return parser_.event();
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
    return std::nullopt;
  }

  TraceReadCounters counters() const override { return counters_; }
  std::string format() const override { return "text"; }
  uint64_t bytes() const override { return lines_.bytes(); }

 private:
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
  absl::Status error_;
};

}  // namespace

std::unique_ptr<TraceReader> MakeTextReader(std::unique_ptr<ByteSource> bytes,
                                            const std::string& name,
                                            const TraceReadOptions& options) {
  return std::make_unique<TextReader>(std::move(bytes), name, options);
}

}  // namespace guestmm::trace
