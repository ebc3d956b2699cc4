#include "src/trace/proc_files.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/trace/parse.h"

namespace guestmm::trace {
namespace {

using State = RecordedPages::State;

// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h,
// include/linux/kernel-page-flags.h).
constexpr uint64_t kLruFlag = uint64_t{1} << 5;
constexpr uint64_t kSlabFlag = uint64_t{1} << 7;
constexpr uint64_t kBuddyFlag = uint64_t{1} << 10;
constexpr uint64_t kMmapFlag = uint64_t{1} << 11;
constexpr uint64_t kAnonFlag = uint64_t{1} << 12;
constexpr uint64_t kNoPageFlag = uint64_t{1} << 20;
constexpr uint64_t kOfflineFlag = uint64_t{1} << 23;
constexpr uint64_t kReservedFlag = uint64_t{1} << 32;
// KPF_UPTODATE. On the head of a free block the same bit of page->flags is
// PG_reported.
constexpr uint64_t kReportedFlag = uint64_t{1} << 3;

RecordedPages::State StateOf(uint64_t flags) {
  if ((flags & kNoPageFlag) != 0) return State::kAbsent;
  if ((flags & kBuddyFlag) != 0) return State::kFree;
  if ((flags & kOfflineFlag) != 0) return State::kOffline;
  if ((flags & kReservedFlag) != 0) return State::kReserved;
  // Older kernels take the _mapcount of 0 in a zeroed struct page for one
  // mapping.
  if ((flags & ~kMmapFlag) == 0) return State::kNoFlags;
  if ((flags & kAnonFlag) != 0) return State::kAnonymous;
  if ((flags & kSlabFlag) != 0) return State::kSlab;
  if ((flags & kLruFlag) != 0) return State::kPageCache;
  return State::kInUse;
}

// Takes a node's number and a zone's name: "Node 0, zone      DMA".
bool TakeZone(std::string_view& text, int& node, std::string& name) {
  std::string_view rest = text;
  uint64_t number = 0;
  if (!TakeWord(rest, "Node ")) return false;
  if (!TakeDecimal(rest, number) || number > 1023) return false;
  if (!TakeWord(rest, ", zone")) return false;
  SkipSpaces(rest);
  const size_t end = std::min(rest.find(' '), rest.size());
  if (end == 0) return false;
  node = static_cast<int>(number);
  name = std::string(rest.substr(0, end));
  text = rest.substr(end);
  return true;
}

// True if the line is a field called `name`, as in "low      108". Sets `value`
// to its number, or to nothing if it has none.
bool IsField(std::string_view line, std::string_view name,
             std::optional<uint64_t>& value) {
  if (!TakeWord(line, name) || line.empty() || line[0] != ' ') return false;
  SkipSpaces(line);
  uint64_t number = 0;
  value.reset();
  if (TakeDecimal(line, number) && line.empty()) value = number;
  return true;
}

}  // namespace

absl::StatusOr<uint64_t> ReadPageSize(LineReader& lines) {
  std::string_view line;
  lines.Next(line);
  if (!lines.status().ok()) return lines.status();
  std::string_view rest = line;
  uint64_t bytes = 0;
  if (!TakeDecimal(rest, bytes) || !rest.empty() || bytes != kPageSize) {
    return lines.Expected(
        line,
        absl::StrCat(kPageSize,
                     ": only guests with pages of 4 KiB can be replayed"));
  }
  return bytes;
}

absl::StatusOr<std::string> ReadUname(LineReader& lines) {
  std::string_view line;
  lines.Next(line);
  if (!lines.status().ok()) return lines.status();
  std::string_view rest = line;
  const auto take_word = [&] {
    SkipSpaces(rest);
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(word.size());
    return word;
  };
  std::string_view release = take_word();
  if (release == "Linux") {
    take_word();  // the host's name
    release = take_word();
  }
  std::string_view numbers = release;
  uint64_t number = 0;
  if (!TakeDecimal(numbers, number) || !TakeWord(numbers, ".") ||
      !TakeDecimal(numbers, number)) {
    return lines.Expected(line, "Linux HOST RELEASE ..., or RELEASE, as 6.1.0");
  }
  return std::string(release);
}

absl::StatusOr<uint64_t> ReadLayout(LineReader& lines) {
  std::string_view line;
  lines.Next(line);
  if (!lines.status().ok()) return lines.status();
  std::string_view rest = line;
  uint64_t number = 0;
  if (!TakeDecimal(rest, number) || !rest.empty() || number < 1 ||
      number > kLatestLayout) {
    return lines.Expected(
        line, absl::StrCat("1 to ", kLatestLayout,
                           ": later layouts need a later version of guestmm"));
  }
  return number;
}

absl::StatusOr<std::vector<GpaRange>> ReadIomem(LineReader& lines) {
  struct Line {
    GpaRange range;
    uint64_t number;
  };
  std::vector<Line> memory;
  std::string_view line;
  while (lines.Next(line)) {
    std::string_view rest = line;
    SkipSpaces(rest);
    if (rest.empty()) continue;
    uint64_t first = 0;
    uint64_t last = 0;
    if (!TakeHex(rest, first) || !TakeWord(rest, "-") || !TakeHex(rest, last) ||
        !TakeWord(rest, " : ") || last < first) {
      return lines.Expected(line, "a line as 00100000-7fffffff : NAME");
    }
    // Includes "System RAM (virtio_mem)".
    if (!rest.starts_with("System RAM")) continue;
    if (last == 0) {
      return lines.Expected(
          line,
          "addresses: /proc/iomem hides them unless root reads "
          "it");
    }
    if (last >= kGuestAddresses) {
      return lines.Expected(line, "addresses of up to 52 bits");
    }
    const Gpa start = ToGpa(ToPfn(Gpa(first + kPageSize - 1)));
    const Gpa end = ToGpa(ToPfn(Gpa(last + 1)));
    if (start < end) memory.push_back({{start, end - start}, lines.number()});
  }
  if (!lines.status().ok()) return lines.status();
  std::stable_sort(
      memory.begin(), memory.end(),
      [](const Line& a, const Line& b) { return a.range.gpa < b.range.gpa; });
  // Joins adjoining ranges; hotplugged memory is listed within a larger range.
  std::vector<GpaRange> merged;
  const Line* largest = nullptr;  // of those so far, the one that ends last
  const auto end_of = [](const GpaRange& range) {
    return range.gpa + range.bytes;
  };
  for (const Line& its : memory) {
    const GpaRange& range = its.range;
    if (largest == nullptr || range.gpa > end_of(merged.back())) {
      merged.push_back(range);
      largest = &its;
      continue;
    }
    if (end_of(range) <= end_of(merged.back())) continue;
    // Resources nest, but never overlap otherwise.
    if (range.gpa < end_of(largest->range) && range.gpa > largest->range.gpa) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s:%d: RAM from 0x%x to 0x%x; %s:%d: RAM from 0x%x to 0x%x: must "
          "not overlap unless one is within the other",
          lines.name(), largest->number, largest->range.gpa.value(),
          end_of(largest->range).value() - 1, lines.name(), its.number,
          range.gpa.value(), end_of(range).value() - 1));
    }
    merged.back().bytes = end_of(range) - merged.back().gpa;
    largest = &its;
  }
  return merged;
}

absl::StatusOr<std::vector<RecordedZone>> ReadZoneinfo(LineReader& lines) {
  // Upper bounds, in pages: of a zone; of a vCPU's marks, as in PerCpuPages;
  // and of the sum of all min, 1 TiB, as in PageAllocator.
  constexpr uint64_t kMostPages = uint64_t{1} << 40;
  constexpr uint64_t kMostPerCpu = uint64_t{1} << 20;
  constexpr uint64_t kMostMin = uint64_t{1} << 28;
  uint64_t all_min = 0;
  std::vector<RecordedZone> zones;
  // Of each zone, what its lines say.
  struct Said {
    PageCount spanned;
    bool managed = false;
    bool start = false;
  };
  std::vector<Said> said;
  std::string_view line;
  while (lines.Next(line)) {
    std::string_view rest = line;
    if (rest.starts_with("Node ")) {
      RecordedZone zone;
      if (!TakeZone(rest, zone.node, zone.name)) {
        return lines.Expected(line, "Node NUMBER, zone NAME");
      }
      zones.push_back(std::move(zone));
      said.emplace_back();
      continue;
    }
    SkipSpaces(rest);
    std::optional<uint64_t> value;
    const auto take = [&](std::string_view name) {
      return IsField(rest, name, value);
    };
    enum {
      kFree,
      kMin,
      kLow,
      kHigh,
      kSpanned,
      kPresent,
      kManaged,
      kStart,
      kCpu,
      kCount,
      kCpuHigh,
      kBatch,
      kNone
    };
    constexpr std::array<std::string_view, kNone> kNames = {
        "pages free", "min",        "low",  "high",   "spanned", "present",
        "managed",    "start_pfn:", "cpu:", "count:", "high:",   "batch:"};
    const auto* const name = std::find_if(kNames.begin(), kNames.end(), take);
    if (name == kNames.end()) continue;
    const auto field = name - kNames.begin();
    const bool per_cpu = field == kCpuHigh || field == kBatch;
    const uint64_t least = field == kBatch ? 1 : 0;
    const uint64_t most = per_cpu ? kMostPerCpu : kMostPages;
    if (zones.empty() || !value) {
      return lines.Expected(
          line,
          absl::StrCat(zones.empty() ? "a zone before " : "a number after ",
                       std::string(*name)));
    }
    if (*value < least || *value > most) {
      return lines.Expected(line, absl::StrCat(least, " to ", most, " after ",
                                               std::string(*name)));
    }
    RecordedZone& zone = zones.back();
    if (field == kCpu) zone.per_cpu.emplace_back();
    if (field > kCpu && zone.per_cpu.empty()) {
      return lines.Expected(line, "cpu: before it");
    }
    const PageCount pages(*value);
    switch (field) {
      case kFree:
        zone.free = pages;
        break;
      case kMin:
        zone.min = pages;
        all_min += *value;
        if (all_min > kMostMin) {
          return lines.Expected(line, absl::StrCat("a min of ", kMostMin,
                                                   " pages at most, of all "
                                                   "zones together"));
        }
        break;
      case kLow:
        zone.low = pages;
        break;
      case kHigh:
        zone.high = pages;
        break;
      case kSpanned:
        said.back().spanned = pages;
        break;
      case kPresent:
        zone.present = pages;
        break;
      case kManaged:
        zone.managed = pages;
        said.back().managed = true;
        break;
      case kStart:
        said.back().start = true;
        zone.span.start = Pfn(*value);
        break;
      case kCount:
        zone.per_cpu.back().count = *value;
        break;
      case kCpuHigh:
        zone.per_cpu.back().high = *value;
        break;
      case kBatch:
        zone.per_cpu.back().batch = *value;
        break;
      default:
        break;
    }
  }
  if (!lines.status().ok()) return lines.status();
  if (zones.empty()) {
    return absl::DataLossError(
        absl::StrCat(lines.name(), ": no zone: the file is truncated"));
  }
  std::vector<RecordedZone> populated;
  for (size_t i = 0; i < zones.size(); ++i) {
    RecordedZone& zone = zones[i];
    const std::string place =
        absl::StrCat(lines.name(), ": Node ", zone.node, ", zone ", zone.name);
    // Old kernels have no such line.
    if (!said[i].managed) zone.managed = zone.present;
    const bool is_populated =
        zone.managed > PageCount(0) || zone.present > PageCount(0);
    if (is_populated && !said[i].start) {
      return absl::DataLossError(absl::StrCat(
          place, ": must end with start_pfn: the file is truncated"));
    }
    const auto cut =
        std::find_if(zone.per_cpu.begin(), zone.per_cpu.end(),
                     [](const auto& cpu) { return cpu.batch == 0; });
    if (cut != zone.per_cpu.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ", cpu ", cut - zone.per_cpu.begin(),
                       ": must have a batch: of 1 or more"));
    }
    if (!is_populated) continue;
    zone.span.end = zone.span.start + said[i].spanned;
    populated.push_back(std::move(zone));
  }
  return populated;
}

absl::StatusOr<RecordedPages> ReadKpageflags(ByteSource& bytes,
                                             const std::string& name) {
  RecordedPages pages;
  // Of 16 GiB: what is not written takes no memory, which copies would.
  pages.states.reserve(size_t{1} << 22);
  std::vector<uint64_t> flags(size_t{1} << 14);
  // Runs of pages have the same flags.
  uint64_t last_flags = 0;
  RecordedPages::State state = StateOf(last_flags);
  constexpr size_t kBytesEach = sizeof(uint64_t);
  while (true) {
    // ReadFully reads whole numbers, except at the end of a truncated file.
    const absl::StatusOr<size_t> got =
        ReadFully(bytes, reinterpret_cast<char*>(flags.data()),
                  flags.size() * kBytesEach);
    if (!got.ok()) return got.status();
    if (*got == 0) return pages;
    if (*got % kBytesEach != 0) {
      return absl::DataLossError(absl::StrCat(
          name, ": ", pages.states.size() * kBytesEach + *got,
          " bytes: expected 8 for each page: the file is truncated"));
    }
    const size_t first = pages.states.size();
    pages.states.resize(first + *got / kBytesEach);
    for (size_t i = 0; i < *got / kBytesEach; ++i) {
      // Little endian, as on all hosts that guestmm supports.
      if (flags[i] != last_flags) {
        last_flags = flags[i];
        state = StateOf(last_flags);
      }
      if (state == RecordedPages::State::kFree &&
          (flags[i] & kReportedFlag) != 0) {
        pages.reported.emplace_back(first + i);
      }
      pages.states[first + i] = state;
    }
  }
}

absl::StatusOr<std::vector<RecordedBuddyInfo>> ReadBuddyinfo(
    LineReader& lines) {
  std::vector<RecordedBuddyInfo> all;
  std::string_view line;
  while (lines.Next(line)) {
    std::string_view rest = line;
    if (!rest.starts_with("Node ")) {
      RecordedBuddyInfo info;
      if (!TakeTime(rest, info.time) || !TakeWord(rest, " ")) {
        return lines.Expected(line,
                              "a line of /proc/uptime or of /proc/buddyinfo");
      }
      all.push_back(std::move(info));
      continue;
    }
    RecordedBuddyInfo::Zone zone;
    if (all.empty() || !TakeZone(rest, zone.node, zone.name)) {
      return lines.Expected(line,
                            "/proc/uptime, and then Node NUMBER, zone NAME");
    }
    for (uint64_t& blocks : zone.blocks) {
      SkipSpaces(rest);
      if (!TakeDecimal(rest, blocks)) {
        return lines.Expected(
            line, absl::StrCat(zone.blocks.size(), " numbers of blocks"));
      }
    }
    SkipSpaces(rest);
    if (!rest.empty()) {
      return lines.Expected(
          line,
          absl::StrCat(zone.blocks.size(),
                       " numbers of blocks, and no more, as with pages of 4 "
                       "KiB"));
    }
    all.back().zones.push_back(std::move(zone));
  }
  if (!lines.status().ok()) return lines.status();
  return all;
}

}  // namespace guestmm::trace
