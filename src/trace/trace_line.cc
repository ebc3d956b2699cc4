#include "src/trace/trace_line.h"

#include <algorithm>
#include <optional>

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

bool ParseHeaderAt(std::string_view line, LineHeader& header) {
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
  if (digits < 6 || !text.starts_with(":")) return false;
  text.remove_prefix(1);
  SkipSpaces(text);
  header.rest = text;
  return true;
}

// True if the text may follow a header: it begins with an event's name or
// "<stack trace>", after the number of events that perf may print, or the time
// since the previous event that trace-cmd may print, "(+69)"; these are taken.
// If a task's name looks like a header, a PID follows instead.
bool TakeEventStart(std::string_view& text) {
  std::string_view rest = text;
  uint64_t number = 0;
  if (rest.starts_with("(+")) {
    rest.remove_prefix(2);
    if (!TakeDecimal(rest, number) || !rest.starts_with(") ")) return false;
    rest.remove_prefix(1);
    SkipSpaces(rest);
  } else if (TakeDecimal(rest, number)) {
    SkipSpaces(rest);
  }
  if (rest.empty()) return false;
  const char c = rest[0];
  if ((c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && c != '<') {
    return false;
  }
  text = rest;
  return true;
}

// The first header that an event follows, or else the first header.
std::optional<LineHeader> FindHeader(std::string_view line) {
  std::optional<LineHeader> without_event;
  LineHeader header;
  for (size_t at = line.find('['); at != std::string_view::npos;
       at = line.find('[', at + 1)) {
    if (!ParseHeaderAt(line.substr(at), header)) continue;
    if (TakeEventStart(header.rest)) return header;
    without_event = header;
    without_event->rest = "";
  }
  return without_event;
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
  // The first lines of trace-cmd report.
  if (text.starts_with("cpus=") || text.starts_with("version =") ||
      IsCallChain(line)) {
    return TraceLine::kOther;
  }
  return Bad("TASK-PID [CPU] SECONDS.MICROSECONDS: EVENT: FIELDS");
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
  if (is_alloc && (no_page || (has_pfn && pfn == ~uint64_t{0}) ||
                   (has_pfn && page_is_0 && pfn == 0))) {
    return TraceLine::kFailedAlloc;
  }
  if (!has_pfn || !has_order) return Bad("pfn=NUMBER and order=NUMBER");
  if (pfn > kMaxPfn) return Bad("pfn=NUMBER, of up to 40 bits");
  if (is_alloc && (!has_migratetype || !has_gfp)) {
    return Bad("migratetype=NUMBER and gfp_flags=NAMES");
  }
  event_.kind = kind;
  event_.pfn = Pfn(pfn);
  event_.order = Order(static_cast<int>(order));
  event_.migratetype =
      is_alloc ? static_cast<uint8_t>(migratetype) : uint8_t{0};
  event_.gfp = is_alloc ? gfp : 0;
  return TraceLine::kEvent;
}

TraceLine TraceLineParser::Parse(std::string_view line) {
  const std::optional<LineHeader> header = FindHeader(line);
  if (!header) return ParseWithoutHeader(line);
  std::string_view text = header->rest;
  if (text.starts_with("kmem:")) text.remove_prefix(5);
  if (text.starts_with("PERF_RECORD_LOST lost ")) {
    text.remove_prefix(22);
    if (!TakeDecimal(text, lost_)) return Bad("PERF_RECORD_LOST lost NUMBER");
    return TraceLine::kLost;
  }
  if (text.empty()) return Bad("EVENT: FIELDS after the time");
  if (!text.starts_with("mm_page")) return TraceLine::kOther;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return Bad("a colon after the event's name");
  }
  const std::string_view name = text.substr(0, colon);
  const std::string_view fields = text.substr(colon + 1);
  if (header->cpu > kMaxCpu) return Bad("[CPU] of 0 to 65535");
  event_.cpu = static_cast<uint16_t>(header->cpu);
  event_.time = header->time;
  if (name == "mm_page_alloc") {
    return ParseFields(fields, TraceEvent::Kind::kAlloc);
  }
  // mm_page_free_direct and mm_pagevec_free: before Linux 3.3.
  if (name == "mm_page_free" || name == "mm_page_free_direct") {
    return ParseFields(fields, TraceEvent::Kind::kFree);
  }
  if (name == "mm_page_free_batched" || name == "mm_pagevec_free") {
    return TraceLine::kBatchedFree;
  }
  return TraceLine::kOther;
}

}  // namespace guestmm::trace
