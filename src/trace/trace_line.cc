#include "src/trace/trace_line.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "src/trace/parse.h"
#include "src/trace/trace_limits.h"

namespace guestmm::trace {
namespace {

// "[001] .....    21.635540: ", also as perf and trace-cmd print it. The event
// follows.
struct LineHeader {
  uint64_t cpu = 0;
  Nanoseconds time{0};
  std::string_view rest;
};

// `fewest_digits`: behind the point of the time.
bool ParseHeaderAt(std::string_view line, int fewest_digits,
                   LineHeader& header) {
  // Three digits at least: "[1]" may be part of a name.
  std::string_view text = line.substr(1);
  const size_t before = text.size();
  if (!TakeDecimal(text, header.cpu) || before - text.size() < 3 ||
      !text.starts_with("] ")) {
    return false;
  }
  text.remove_prefix(2);
  SkipSpaces(text);
  int digits = 0;
  if (!TakeSeconds(text, header.time, digits)) {
    // The column of irqs-off, need-resched etc.: a word that does not begin
    // with a digit.
    const size_t end = text.substr(0, 17).find(' ');
    if (end == std::string_view::npos) return false;
    text.remove_prefix(end);
    SkipSpaces(text);
    if (!TakeSeconds(text, header.time, digits)) return false;
  }
  if (digits < fewest_digits || !text.starts_with(":")) return false;
  text.remove_prefix(1);
  SkipSpaces(text);
  header.rest = text;
  return true;
}

// True if the text may follow a header: it begins with an event's name or
// "<stack trace>", after the number of events that perf may print, or the time
// since the previous event that trace-cmd may print, "(+69)"; these are taken.
// The text of a marker may follow "0:" or be raw, "# 1 buf: 61". If a task's
// name looks like a header, a PID follows instead.
bool TakeEventStart(std::string_view& text) {
  std::string_view rest = text;
  uint64_t number = 0;
  if (rest.starts_with("(+")) {
    rest.remove_prefix(2);
    if (!TakeDecimal(rest, number) || !rest.starts_with(") ")) return false;
    rest.remove_prefix(1);
    SkipSpaces(rest);
  } else if (TakeDecimal(rest, number)) {
    if (rest.starts_with(": ")) return true;
    SkipSpaces(rest);
  }
  if (rest.empty()) return false;
  const char c = rest[0];
  if ((c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && c != '<' &&
      c != '#') {
    return false;
  }
  text = rest;
  return true;
}

// The first header that an event follows, or else the first header.
std::optional<LineHeader> FindHeader(std::string_view line) {
  constexpr int kDigits = 6;  // at least, as all tools print
  std::optional<LineHeader> without_event;
  LineHeader header;
  for (size_t at = line.find('['); at != std::string_view::npos;
       at = line.find('[', at + 1)) {
    if (!ParseHeaderAt(line.substr(at), kDigits, header)) continue;
    if (TakeEventStart(header.rest)) return header;
    without_event = header;
    without_event->rest = "";
  }
  if (without_event) return without_event;
  // Times that a script has shortened. A task's name can imitate these, so the
  // last header counts.
  for (size_t at = line.rfind('['); at != std::string_view::npos;
       at = at == 0 ? at - 1 : line.rfind('[', at - 1)) {
    if (ParseHeaderAt(line.substr(at), 1, header) &&
        TakeEventStart(header.rest)) {
      return header;
    }
  }
  return std::nullopt;
}

// True for an event of ours whose time is a whole number, e.g. by the trace
// clock x86-tsc or counter: "... [001] 21635540: mm_page_free: ...".
bool HasTimeWithoutPoint(std::string_view line) {
  constexpr std::string_view kDigits = "0123456789";
  std::string_view text = line.substr(0, line.find("mm_page"));
  if (text.size() == line.size()) return false;
  if (text.ends_with("kmem:")) text.remove_suffix(5);
  text = text.substr(0, text.find_last_not_of(' ') + 1);
  if (!text.ends_with(':')) return false;
  text.remove_suffix(1);
  const size_t before = text.find_last_not_of(kDigits);
  return before != std::string_view::npos && before + 1 < text.size() &&
         text[before] == ' ';
}

// True for the event of a marker, whose text may have any lines: of the file
// trace_marker, of trace_printk, of the kernel's log.
bool IsMarker(std::string_view event) {
  for (const std::string_view name :
       {"tracing_mark_write:", "print:", "bprint:", "bputs:", "ftrace:print:",
        "console:", "printk:console:"}) {
    if (event.starts_with(name)) return true;
  }
  return false;
}

// "[LOST 12 EVENTS]" or "[12 EVENTS DROPPED]"; without a number at least one.
bool IsLost(std::string_view line, uint64_t& lost) {
  if (!line.starts_with("CPU:")) return false;
  const size_t at = line.find('[');
  if (at == std::string_view::npos) return false;
  std::string_view text = line.substr(at + 1);
  if (text.find("EVENTS") == std::string_view::npos) return false;
  if (text.starts_with("LOST ")) text.remove_prefix(5);
  if (!TakeDecimal(text, lost)) lost = 1;
  return true;
}

// True for a line of a call chain below an event: perf's "ffffffff81156bd1
// __alloc_pages+0x1d1", the kernel's and trace-cmd's " => __alloc_pages".
bool IsCallChain(std::string_view line) {
  if (line.starts_with("=> ") || line.starts_with(" => ")) return true;
  if (line.empty() || (line[0] != ' ' && line[0] != '\t')) return false;
  SkipSpaces(line);
  uint64_t address = 0;
  return TakeHex(line, address) && (line.empty() || line[0] == ' ');
}

// True for a line without a letter or digit, of printed characters: a ruler,
// the quotes of a mail or of Markdown.
bool IsRuler(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c <= '~' && !IsDigit(c) && !(c >= 'a' && c <= 'z') &&
           !(c >= 'A' && c <= 'Z');
  });
}

// True for a line that a tool prints between events: of trace-cmd report, of
// its statistics, of perf script's end, of the kernel's dump at a panic, of
// atrace.
bool IsOfATool(std::string_view text) {
  for (const std::string_view start : {"cpus=",
                                       "version =",
                                       "TRACE:",
                                       "Dumping ftrace buffer:",
                                       "(ftrace buffer empty)",
                                       "Warning:",
                                       "Processed ",
                                       "[ perf record:",
                                       "Check IO/CPU overload!",
                                       "failed to read event print fmt for ",
                                       "Hit Ctrl^C to stop recording",
                                       "Kernel buffer statistics:",
                                       "CPU: ",
                                       "entries: ",
                                       "overrun: ",
                                       "commit overrun: ",
                                       "bytes: ",
                                       "oldest event ts: ",
                                       "now ts: ",
                                       "dropped events: ",
                                       "read events: "}) {
    if (text.starts_with(start)) return true;
  }
  uint64_t number = 0;
  if (TakeWord(text, "CPU")) {
    SkipSpaces(text);
    return TakeDecimal(text, number) &&
           (text == " is empty" || text.starts_with(" data recorded at "));
  }
  if (TakeDecimal(text, number)) return text == " bytes in size";
  return IsRuler(text);
}

// True for a line of the kernel's log, "[   12.345678] ...", of which a dump at
// a panic is a part.
bool IsOfTheLog(std::string_view text) {
  Nanoseconds time{0};
  int digits = 0;
  if (!TakeWord(text, "[")) return false;
  SkipSpaces(text);
  return TakeSeconds(text, time, digits) && text.starts_with("] ");
}

// True for what may be the remains of an event's line: it has a CPU's bracket
// behind a PID or a TGID, "(1234)", or fields of an event of ours, or is no
// text at all.
bool ResemblesAnEvent(std::string_view line) {
  if (line.find("pfn=") != std::string_view::npos &&
      (line.find("mm_page") != std::string_view::npos ||
       line.find("order=") != std::string_view::npos)) {
    return true;
  }
  for (size_t at = line.find('['); at != std::string_view::npos;
       at = line.find('[', at + 1)) {
    const size_t before = line.substr(0, at).find_last_not_of(' ');
    if (before == std::string_view::npos ||
        !(IsDigit(line[before]) || line[before] == ')')) {
      continue;
    }
    std::string_view rest = line.substr(at + 1);
    uint64_t cpu = 0;
    if (TakeDecimal(rest, cpu) && rest.starts_with("] ")) return true;
  }
  return std::any_of(line.begin(), line.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' && c != '\t';
  });
}

bool IsNull(std::string_view page) {
  return page == "(nil)" || page == "(null)";
}

}  // namespace

TraceLine TraceLineParser::Bad(std::string_view expected) {
  expected_.assign(expected);
  return TraceLine::kBad;
}

uint32_t TraceLineParser::Flags(std::string_view text) {
  if (text.size() > 256) return GfpFlags::Parse(text);
  size_t hash = text.size();
  for (size_t i = 4; i < text.size(); i += 5) {
    hash = hash * 31 + static_cast<unsigned char>(text[i]);
  }
  KnownFlags& known = known_flags_[hash % known_flags_.size()];
  if (known.text != text) {
    known.text.assign(text);
    known.flags = GfpFlags::Parse(text);
  }
  return known.flags;
}

TraceLine TraceLineParser::ParseWithoutHeader(std::string_view line) {
  std::string_view text = line;
  SkipSpaces(text);
  if (text.empty() || text[0] == '#') return TraceLine::kOther;
  if (IsLost(text, lost_)) return TraceLine::kLost;
  if (IsOfATool(text) || IsCallChain(line) ||
      (IsOfTheLog(text) && !ResemblesAnEvent(line))) {
    return TraceLine::kOther;
  }
  // " 1) ..." or "1000.105144 |   1) ...".
  std::string_view graph = text;
  Nanoseconds time{0};
  int digits = 0;
  const bool has_time = TakeSeconds(graph, time, digits);
  if (has_time) {
    SkipSpaces(graph);
    if (TakeWord(graph, "|")) SkipSpaces(graph);
  }
  uint64_t cpu = 0;
  if (TakeDecimal(graph, cpu) && TakeWord(graph, ")")) {
    has_begun_ = true;
    if (cpu > kMaxCpu) return Bad("a CPU of 0 to 65535");
    event_.cpu = static_cast<uint16_t>(cpu);
    return ParseGraph(graph, has_time ? std::optional(time) : std::nullopt);
  }
  if ((may_be_text_ || has_marker_) && !ResemblesAnEvent(line)) {
    // Markers of this trace have several lines, by whatever name they go.
    has_marker_ = has_marker_ || has_begun_;
    return TraceLine::kText;
  }
  constexpr std::string_view kExpected =
      "TASK-PID [CPU] SECONDS.MICROSECONDS: EVENT: FIELDS";
  return Bad(HasTimeWithoutPoint(line)
                 ? absl::StrCat(std::string(kExpected),
                                "; a time without a point may be in any unit: "
                                "record with the clock mono")
                 : std::string(kExpected));
}

TraceLine TraceLineParser::ParseGraph(std::string_view text,
                                      std::optional<Nanoseconds> time) {
  constexpr std::string_view kComment = "/* ";
  const size_t comment = text.find(kComment);
  if (comment == std::string_view::npos) return TraceLine::kOther;
  text.remove_prefix(comment + kComment.size());
  if (!text.starts_with("mm_page")) {
    may_be_text_ = true;
    return TraceLine::kOther;
  }
  if (!time) {
    return Bad(
        "SECONDS.MICROSECONDS | CPU) ...: the function_graph tracer's "
        "text with times, by the trace option funcgraph-abstime");
  }
  event_.time = *time;
  return ParseEvent(text);
}

TraceLine TraceLineParser::ParseFields(std::string_view fields,
                                       TraceEvent::Kind kind) {
  uint64_t pfn = 0;
  uint64_t order = 0;
  uint64_t migratetype = 0;
  uint32_t gfp = 0;
  bool has_pfn = false;
  bool has_order = false;
  bool has_migratetype = false;
  bool has_gfp = false;
  bool no_page = false;    // the allocation failed
  bool page_is_0 = false;  // it failed, or the tool could not decode the field
  // The order of fields differs between tools.
  while (true) {
    SkipSpaces(fields);
    if (fields.empty()) break;
    const size_t key_end = fields.find_first_of("= ");
    if (key_end == std::string_view::npos) break;
    const std::string_view key = fields.substr(0, key_end);
    const bool is_field = fields[key_end] == '=';
    fields.remove_prefix(key_end + 1);
    if (!is_field) continue;
    if (key == "page") SkipSpaces(fields);  // "page=          (null)"
    const size_t value_end = std::min(fields.find(' '), fields.size());
    std::string_view value = fields.substr(0, value_end);
    fields.remove_prefix(value_end);
    if (key == "page") {
      no_page = IsNull(value);
      page_is_0 = value.find_first_not_of("0x") == std::string_view::npos;
    } else if (key == "pfn") {
      // Negative for a failed allocation.
      has_pfn = TakeNumber(value, pfn) && value.empty();
      if (!has_pfn && !no_page) {
        return Bad("pfn=NUMBER, decimal or as 0x1f");
      }
    } else if (key == "order") {
      has_order = TakeDecimal(value, order) && value.empty();
      if (!has_order || order > static_cast<uint64_t>(kMaxOrder.value())) {
        return Bad("order=NUMBER, from 0 to 10");
      }
    } else if (key == "migratetype") {
      has_migratetype = TakeDecimal(value, migratetype) && value.empty();
      if (!has_migratetype || migratetype > kMaxMigratetype) {
        return Bad("migratetype=NUMBER, from 0 to 255");
      }
    } else if (key == "gfp_flags") {
      has_gfp = true;
      gfp = Flags(value);
    }
  }
  const bool is_alloc = kind == TraceEvent::Kind::kAlloc;
  const bool is_typed = kind != TraceEvent::Kind::kFree;
  if (is_alloc && (no_page || (has_pfn && pfn == ~uint64_t{0}) ||
                   (has_pfn && page_is_0 && pfn == 0))) {
    return TraceLine::kFailedAlloc;
  }
  if (!has_pfn || !has_order) return Bad("pfn=NUMBER and order=NUMBER");
  if (pfn > kMaxPfn) return Bad("pfn=NUMBER, of up to 40 bits");
  if (is_alloc && (!has_migratetype || !has_gfp)) {
    return Bad("migratetype=NUMBER and gfp_flags=NAMES");
  }
  if (is_typed && !has_migratetype) return Bad("migratetype=NUMBER");
  event_.kind = kind;
  event_.pfn = Pfn(pfn);
  event_.order = Order(static_cast<int>(order));
  event_.migratetype =
      is_typed ? static_cast<uint8_t>(migratetype) : uint8_t{0};
  event_.gfp = is_alloc ? gfp : 0;
  return TraceLine::kEvent;
}

TraceLine TraceLineParser::Parse(std::string_view line) {
  const std::optional<LineHeader> header = FindHeader(line);
  if (!header) return ParseWithoutHeader(line);
  has_begun_ = true;
  std::string_view text = header->rest;
  if (text.starts_with("kmem:")) text.remove_prefix(5);
  if (TakeWord(text, "PERF_RECORD_LOST lost ") ||
      TakeWord(text, "PERF_RECORD_LOST_SAMPLES lost ")) {
    if (!TakeDecimal(text, lost_)) return Bad("PERF_RECORD_LOST lost NUMBER");
    return TraceLine::kLost;
  }
  if (text.empty()) return Bad("EVENT: FIELDS after the time");
  if (!text.starts_with("mm_page")) {
    may_be_text_ = true;
    has_marker_ = has_marker_ || IsMarker(text);
    return TraceLine::kOther;
  }
  if (header->cpu > kMaxCpu) return Bad("[CPU] of 0 to 65535");
  event_.cpu = static_cast<uint16_t>(header->cpu);
  event_.time = header->time;
  return ParseEvent(text);
}

TraceLine TraceLineParser::ParseEvent(std::string_view text) {
  may_be_text_ = false;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return Bad("a colon after the event's name");
  }
  const std::string_view name = text.substr(0, colon);
  const std::string_view fields = text.substr(colon + 1);
  if (name == "mm_page_alloc") {
    return ParseFields(fields, TraceEvent::Kind::kAlloc);
  }
  // mm_page_free_direct and mm_pagevec_free: before Linux 3.3.
  if (name == "mm_page_free" || name == "mm_page_free_direct") {
    return ParseFields(fields, TraceEvent::Kind::kFree);
  }
  if (name == "mm_page_alloc_zone_locked") {
    return ParseFields(fields, TraceEvent::Kind::kZoneAlloc);
  }
  if (name == "mm_page_pcpu_drain") {
    return ParseFields(fields, TraceEvent::Kind::kDrain);
  }
  if (name == "mm_page_free_batched" || name == "mm_pagevec_free") {
    return TraceLine::kBatchedFree;
  }
  return TraceLine::kOther;
}

}  // namespace guestmm::trace
