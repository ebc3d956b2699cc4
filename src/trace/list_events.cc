#include "src/trace/list_events.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "src/trace/line_reader.h"
#include "src/trace/parse.h"
#include "src/trace/trace_limits.h"

namespace guestmm::trace {
namespace {

using Kind = TraceEvent::Kind;

class ListEventsReader final : public TraceReader {
 public:
  ListEventsReader(std::unique_ptr<ByteSource> bytes, const std::string& name,
                   const TraceReadOptions& options)
      : lines_(std::move(bytes), name), options_(options) {}

  std::string format() const override { return "trace.extra"; }
  uint64_t bytes() const override { return lines_.bytes(); }

 private:
  // One event at a time.
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    if (!error_.ok()) return error_;
    std::string_view line;
    while (lines_.Next(line)) {
      event_ = {};
      char kind = 0;
      if (!Parse(line, event_, kind)) {
        if (counters_.bad_lines < options_.skip_bad) {
          ++counters_.bad_lines;
          continue;
        }
        error_ = lines_.Expected(
            line,
            "TIME CPU KIND PFN ..., of kind d, with ORDER TYPE; z, with ORDER "
            "TYPE REFILL; b; or f");
        return error_;
      }
      if (kind == 'b' || kind == 'f') {
        ++counters_.other_lines;
        continue;
      }
      ++counters_.events;
      return std::span(&event_, 1);
    }
    error_ = lines_.status();
    if (!error_.ok()) return error_;
    return std::span<const TraceEvent>();
  }
  TraceReadCounters CountRuns() const override { return counters_; }

  static bool TakeField(std::string_view& text, uint64_t most,
                        uint64_t& value) {
    return TakeWord(text, " ") && TakeDecimal(text, value) && value <= most;
  }

  static bool Parse(std::string_view text, TraceEvent& event, char& kind) {
    uint64_t cpu = 0;
    uint64_t pfn = 0;
    uint64_t order = 0;
    uint64_t migratetype = 0;
    uint64_t is_refill = 0;
    if (!TakeTime(text, event.time) || !TakeField(text, kMaxCpu, cpu) ||
        !TakeWord(text, " ") || text.empty()) {
      return false;
    }
    kind = text[0];
    text.remove_prefix(1);
    if (kind == 'b' || kind == 'f') return true;
    if (kind != 'd' && kind != 'z') return false;
    event.kind = kind == 'd' ? Kind::kDrain : Kind::kZoneAlloc;
    if (!TakeWord(text, " ") || !TakeHex(text, pfn) || pfn > kMaxPfn ||
        !TakeField(text, static_cast<uint64_t>(kMaxOrder.value()), order) ||
        !TakeField(text, kMaxMigratetype, migratetype) ||
        (kind == 'z' && !TakeField(text, 1, is_refill))) {
      return false;
    }
    event.pfn = Pfn(pfn);
    event.order = Order(static_cast<int>(order));
    event.migratetype = static_cast<uint8_t>(migratetype);
    event.cpu = static_cast<uint16_t>(cpu);
    return text.empty();
  }

  LineReader lines_;
  const TraceReadOptions options_;
  TraceEvent event_;  // returned last
  TraceReadCounters counters_;
  absl::Status error_;
};

class WithListEventsReader final : public TraceReader {
 public:
  WithListEventsReader(std::unique_ptr<TraceReader> trace,
                       std::unique_ptr<TraceReader> lists)
      : trace_{.reader = std::move(trace)},
        lists_{.reader = std::move(lists)} {}

  std::string format() const override {
    return absl::StrCat(trace_.reader->format(), ", and ",
                        lists_.reader->format());
  }
  uint64_t bytes() const override {
    return trace_.reader->bytes() + lists_.reader->bytes();
  }

 private:
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    if (!error_.ok()) return error_;
    error_.Update(trace_.Read());
    if (trace_.next && !trace_.next->is_request()) has_own_ = true;
    if (!has_own_) error_.Update(lists_.Read());
    if (!error_.ok()) return error_;
    Source& source = !has_own_ && IsListsFirst() ? lists_ : trace_;
    if (&source == &lists_) ++from_lists_;
    if (!source.next) return std::span<const TraceEvent>();
    last_ = *std::exchange(source.next, std::nullopt);
    return std::span(&last_, 1);
  }
  TraceReadCounters CountRuns() const override {
    TraceReadCounters counters = trace_.reader->counters();
    counters.events += from_lists_;
    counters.bad_lines += lists_.reader->counters().bad_lines;
    return counters;
  }

  struct Source {
    std::unique_ptr<TraceReader> reader;
    // Absent once it is returned, and at the end.
    std::optional<TraceEvent> next = {};

    absl::Status Read() {
      if (next) return absl::OkStatus();
      absl::StatusOr<std::optional<TraceEvent>> event = reader->Next();
      if (event.ok()) next = *event;
      return event.status();
    }
  };

  bool IsListsFirst() const {
    if (!lists_.next) return false;
    if (!trace_.next) return true;
    if (lists_.next->time != trace_.next->time) {
      return lists_.next->time < trace_.next->time;
    }
    return lists_.next->kind == Kind::kZoneAlloc;
  }

  Source trace_;
  Source lists_;
  bool has_own_ = false;
  uint64_t from_lists_ = 0;
  TraceEvent last_;  // returned last
  absl::Status error_;
};

}  // namespace

std::unique_ptr<TraceReader> MakeListEventsReader(
    std::unique_ptr<ByteSource> bytes, const std::string& name,
    const TraceReadOptions& options) {
  return std::make_unique<ListEventsReader>(std::move(bytes), name, options);
}

std::unique_ptr<TraceReader> WithListEvents(
    std::unique_ptr<TraceReader> trace, std::unique_ptr<TraceReader> lists) {
  return std::make_unique<WithListEventsReader>(std::move(trace),
                                                std::move(lists));
}

}  // namespace guestmm::trace
