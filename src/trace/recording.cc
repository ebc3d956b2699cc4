#include "guestmm/trace/recording.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/trace/byte_source.h"
#include "src/trace/line_reader.h"
#include "src/trace/parse.h"

namespace guestmm {
namespace {

using trace::ByteSource;
using trace::LineReader;

// Beyond what a guest's addresses go.
constexpr uint64_t kAddresses = uint64_t{1} << 52;

// Bits of /proc/kpageflags.
constexpr uint64_t kBuddyFlag = uint64_t{1} << 10;
constexpr uint64_t kNoPageFlag = uint64_t{1} << 20;
// PG_uptodate; of the first page of a free block it is PG_reported.
constexpr uint64_t kReportedFlag = uint64_t{1} << 3;

bool TakeWord(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

// "-4.287", "12.5" or "12".
bool TakeTime(std::string_view& text, Nanoseconds& time) {
  std::string_view rest = text;
  const bool negative = TakeWord(rest, "-");
  int digits = 0;
  uint64_t seconds = 0;
  if (!trace::TakeSeconds(rest, time, digits)) {
    if (!trace::TakeDecimal(rest, seconds) || seconds > 9'000'000'000) {
      return false;
    }
    time = std::chrono::seconds(static_cast<int64_t>(seconds));
  }
  if (negative) time = -time;
  text = rest;
  return true;
}

// Takes a node's and a zone's name, "Node 0, zone      DMA".
bool TakeZone(std::string_view& text, int& node, std::string& name) {
  std::string_view rest = text;
  uint64_t number = 0;
  if (!TakeWord(rest, "Node ")) return false;
  if (!trace::TakeDecimal(rest, number) || number > 1023) return false;
  if (!TakeWord(rest, ", zone")) return false;
  trace::SkipSpaces(rest);
  const size_t end = std::min(rest.find(' '), rest.size());
  if (end == 0) return false;
  node = static_cast<int>(number);
  name = std::string(rest.substr(0, end));
  text = rest.substr(end);
  return true;
}

// "low      108": whether the line is one of `name`; then `value` is what it
// says, none if that is no number.
bool IsField(std::string_view line, std::string_view name,
             std::optional<uint64_t>& value) {
  if (!TakeWord(line, name) || line.empty() || line[0] != ' ') return false;
  trace::SkipSpaces(line);
  uint64_t number = 0;
  value.reset();
  if (trace::TakeDecimal(line, number) && line.empty()) value = number;
  return true;
}

absl::StatusOr<std::vector<GpaRange>> ReadIomem(LineReader& lines) {
  std::vector<GpaRange> memory;
  std::string_view line;
  while (lines.Next(line)) {
    std::string_view rest = line;
    trace::SkipSpaces(rest);
    if (rest.empty()) continue;
    uint64_t first = 0;
    uint64_t last = 0;
    if (!trace::TakeHex(rest, first) || !TakeWord(rest, "-") ||
        !trace::TakeHex(rest, last) || !TakeWord(rest, " : ") || last < first) {
      return lines.Expected(line, "a line as 00100000-7fffffff : NAME");
    }
    // "System RAM (virtio_mem)" too.
    if (!rest.starts_with("System RAM")) continue;
    if (last == 0) {
      return lines.Expected(
          line,
          "addresses: /proc/iomem hides them unless root reads "
          "it");
    }
    if (last >= kAddresses) {
      return lines.Expected(line, "addresses of up to 52 bits");
    }
    const Gpa start = ToGpa(ToPfn(Gpa(first + kPageSize - 1)));
    const Gpa end = ToGpa(ToPfn(Gpa(last + 1)));
    if (start < end) memory.push_back({start, end - start});
  }
  if (!lines.status().ok()) return lines.status();
  std::sort(memory.begin(), memory.end(),
            [](const GpaRange& a, const GpaRange& b) { return a.gpa < b.gpa; });
  // Ranges that touch are one; hotplugged memory is listed within a larger
  // range.
  std::vector<GpaRange> merged;
  for (const GpaRange& range : memory) {
    if (!merged.empty() &&
        range.gpa <= merged.back().gpa + merged.back().bytes) {
      merged.back().bytes = std::max(
          merged.back().bytes, range.gpa + range.bytes - merged.back().gpa);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

absl::StatusOr<std::vector<RecordedZone>> ReadZoneinfo(LineReader& lines) {
  // What is believed, in pages: of a zone; of a vCPU's marks, as PerCpuPages
  // takes them; and of all min, 1 TiB, as PageAllocator takes it.
  constexpr uint64_t kMostPages = uint64_t{1} << 40;
  constexpr uint64_t kMostPerCpu = uint64_t{1} << 20;
  constexpr uint64_t kMostMin = uint64_t{1} << 28;
  uint64_t all_min = 0;
  std::vector<RecordedZone> zones;
  std::vector<PageCount> spanned;
  std::string_view line;
  while (lines.Next(line)) {
    std::string_view rest = line;
    if (rest.starts_with("Node ")) {
      RecordedZone zone;
      if (!TakeZone(rest, zone.node, zone.name)) {
        return lines.Expected(line, "Node NUMBER, zone NAME");
      }
      zones.push_back(std::move(zone));
      spanned.emplace_back();
      continue;
    }
    trace::SkipSpaces(rest);
    std::optional<uint64_t> value;
    const auto take = [&](std::string_view name) {
      return IsField(rest, name, value);
    };
    enum {
      kMin,
      kLow,
      kHigh,
      kSpanned,
      kManaged,
      kStart,
      kCpu,
      kCount,
      kCpuHigh,
      kBatch,
      kNone
    };
    constexpr std::array<std::string_view, kNone> kNames = {
        "min",        "low",  "high",   "spanned", "managed",
        "start_pfn:", "cpu:", "count:", "high:",   "batch:"};
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
        spanned.back() = pages;
        break;
      case kManaged:
        zone.managed = pages;
        break;
      case kStart:
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
  std::vector<RecordedZone> populated;
  for (size_t i = 0; i < zones.size(); ++i) {
    const auto& cpus = zones[i].per_cpu;
    const auto cut =
        std::find_if(cpus.begin(), cpus.end(),
                     [](const auto& cpu) { return cpu.batch == 0; });
    if (cut != cpus.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          lines.name(), ": Node ", zones[i].node, ", zone ", zones[i].name,
          ", the ", cut - cpus.begin() + 1, ". cpu: expected batch: after it"));
    }
    zones[i].span.end = zones[i].span.start + spanned[i];
    if (zones[i].managed > PageCount(0)) {
      populated.push_back(std::move(zones[i]));
    }
  }
  return populated;
}

absl::StatusOr<RecordedPages> ReadKpageflags(ByteSource& bytes,
                                             const std::string& name) {
  using State = RecordedPages::State;
  RecordedPages pages;
  std::vector<uint64_t> flags(size_t{1} << 14);
  constexpr size_t kBytesEach = sizeof(uint64_t);
  while (true) {
    // ReadFully, so that only the end of the file is not whole numbers.
    const absl::StatusOr<size_t> got =
        trace::ReadFully(bytes, reinterpret_cast<char*>(flags.data()),
                         flags.size() * kBytesEach);
    if (!got.ok()) return got.status();
    if (*got == 0) return pages;
    if (*got % kBytesEach != 0) {
      return absl::DataLossError(absl::StrCat(
          name, ": ", pages.states.size() * kBytesEach + *got,
          " bytes: expected 8 for each page: the file is truncated"));
    }
    for (size_t i = 0; i < *got / kBytesEach; ++i) {
      // Little endian, as the hosts that guestmm is for.
      const uint64_t flag = flags[i];
      const bool free = (flag & kBuddyFlag) != 0;
      if (free && (flag & kReportedFlag) != 0) {
        pages.reported.emplace_back(pages.states.size());
      }
      pages.states.push_back((flag & kNoPageFlag) != 0 ? State::kAbsent
                             : free                    ? State::kFree
                                                       : State::kInUse);
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
      trace::SkipSpaces(rest);
      if (!trace::TakeDecimal(rest, blocks)) {
        return lines.Expected(
            line, absl::StrCat(zone.blocks.size(), " numbers of blocks"));
      }
    }
    trace::SkipSpaces(rest);
    if (!rest.empty()) {
      return lines.Expected(
          line,
          absl::StrCat(zone.blocks.size(), " numbers of blocks, and no more"));
    }
    all.back().zones.push_back(std::move(zone));
  }
  if (!lines.status().ok()) return lines.status();
  return all;
}

// A CSV's lines after its heading, each taken by `take(rest, wrong)`: false for
// what is malformed; of numbers that cannot be, `wrong` is what was expected.
template <typename Take>
absl::Status ReadCsv(LineReader& lines, const std::string& heading, Take take) {
  std::string_view line;
  if (!lines.Next(line) || line != heading) {
    if (!lines.status().ok()) return lines.status();
    return lines.Expected(line, absl::StrCat("the heading ", heading));
  }
  while (lines.Next(line)) {
    if (line.empty()) continue;
    std::string_view rest = line;
    std::string wrong;
    if (!take(rest, wrong) || !rest.empty()) {
      wrong = absl::StrCat("numbers: ", heading);
    }
    if (!wrong.empty()) return lines.Expected(line, wrong);
  }
  return lines.status();
}

// `memory`: the guest's, ascending; empty if it is not known.
absl::StatusOr<std::vector<Recording::Report>> ReadReports(
    LineReader& lines, const std::vector<GpaRange>& memory) {
  // What no report goes beyond, and the most bytes of one: whoever compares
  // reports has an entry for each 2 MiB of them.
  uint64_t end = kAddresses;
  uint64_t most = kTiB;
  if (!memory.empty()) {
    end = (memory.back().gpa + memory.back().bytes).value();
    most = 0;
    for (const GpaRange& range : memory) most += range.bytes;
  }
  std::vector<Recording::Report> reports;
  const absl::Status status = ReadCsv(
      lines, "time_s,gpa,bytes",
      [&](std::string_view& rest, std::string& wrong) {
        Recording::Report report;
        uint64_t gpa = 0;
        if (!TakeTime(rest, report.time) || !TakeWord(rest, ",") ||
            !trace::TakeNumber(rest, gpa) || !TakeWord(rest, ",") ||
            !trace::TakeNumber(rest, report.range.bytes)) {
          return false;
        }
        if (report.range.bytes > most) {
          wrong = absl::StrCat(most, " bytes at most",
                               memory.empty() ? "" : ": all of iomem's RAM");
        } else if (gpa > end - report.range.bytes) {
          wrong = absl::StrFormat("a range that ends by 0x%x%s", end,
                                  memory.empty() ? "" : ", as iomem's RAM");
        }
        report.range.gpa = Gpa(gpa);
        reports.push_back(report);
        return true;
      });
  if (!status.ok()) return status;
  std::stable_sort(
      reports.begin(), reports.end(),
      [](const auto& a, const auto& b) { return a.time < b.time; });
  return reports;
}

absl::StatusOr<std::vector<Recording::Resident>> ReadResident(
    LineReader& lines) {
  constexpr uint64_t kMostKib = kAddresses / kKiB;
  std::vector<Recording::Resident> samples;
  const absl::Status status =
      ReadCsv(lines, "time_s,resident_kib",
              [&](std::string_view& rest, std::string& wrong) {
                Recording::Resident sample;
                uint64_t kib = 0;
                if (!TakeTime(rest, sample.time) || !TakeWord(rest, ",") ||
                    !trace::TakeDecimal(rest, kib)) {
                  return false;
                }
                if (kib > kMostKib) {
                  wrong = absl::StrCat(kMostKib, " KiB at most");
                  return true;
                }
                sample.bytes = kib * kKiB;
                samples.push_back(sample);
                return true;
              });
  if (!status.ok()) return status;
  std::stable_sort(
      samples.begin(), samples.end(),
      [](const auto& a, const auto& b) { return a.time < b.time; });
  return samples;
}

struct Window {
  Nanoseconds start{0};
  Nanoseconds end{0};
};

absl::StatusOr<Window> ReadWindow(LineReader& lines) {
  std::optional<Window> window;
  const absl::Status status = ReadCsv(
      lines, "start_s,end_s", [&](std::string_view& rest, std::string& wrong) {
        if (window) wrong = "one line after the heading";
        window.emplace();
        if (!TakeTime(rest, window->start) || !TakeWord(rest, ",") ||
            !TakeTime(rest, window->end)) {
          return false;
        }
        if (window->end < window->start) {
          wrong = "an end_s that is not before start_s";
        }
        return true;
      });
  if (!status.ok()) return status;
  if (!window) return lines.Expected("", "a line after the heading");
  return *window;
}

// The file `name` of `folder`, plain or compressed, if it is there.
std::optional<std::string> Find(const std::filesystem::path& folder,
                                const std::string& name) {
  for (const char* const suffix : {"", ".zst", ".gz"}) {
    const std::filesystem::path path = folder / (name + suffix);
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored) &&
        !std::filesystem::is_directory(path, ignored)) {
      return path.string();
    }
  }
  return std::nullopt;
}

// Reads the file `name` of `folder` with `read` into `value`, if it is there.
template <typename T, typename Read>
absl::Status ReadLines(const std::filesystem::path& folder,
                       const std::string& name, Read read, T& value) {
  const std::optional<std::string> path = Find(folder, name);
  if (!path) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<ByteSource>> bytes = trace::OpenBytes(*path);
  if (!bytes.ok()) return bytes.status();
  LineReader lines(*std::move(bytes), *path);
  auto result = read(lines);
  if (!result.ok()) return result.status();
  value = *std::move(result);
  return absl::OkStatus();
}

absl::Status ReadPages(const std::filesystem::path& folder,
                       const std::string& name,
                       std::optional<RecordedPages>& pages) {
  const std::optional<std::string> path = Find(folder, name);
  if (!path) return absl::OkStatus();
  const absl::StatusOr<std::unique_ptr<ByteSource>> bytes =
      trace::OpenBytes(*path);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<RecordedPages> result = ReadKpageflags(**bytes, *path);
  if (!result.ok()) return result.status();
  pages = *std::move(result);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Recording> ReadRecording(const std::string& path) {
  Recording recording;
  std::filesystem::path folder = path;
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) {
    for (const char* const name :
         {"trace.gmtrace", "trace.txt", "trace_pipe", "trace"}) {
      if (const auto found = Find(folder, name)) {
        recording.trace_path = *found;
        break;
      }
    }
    if (recording.trace_path.empty()) {
      return absl::NotFoundError(absl::StrCat(
          path,
          ": there is no trace in this folder: expected trace.gmtrace, "
          "trace.txt, trace_pipe or trace, plain or as .zst or .gz"));
    }
  } else if (std::filesystem::exists(folder, ignored)) {
    recording.trace_path = path;
    folder = folder.parent_path();
  } else {
    return absl::NotFoundError(
        absl::StrCat(path, ": there is no such file or folder"));
  }

  std::optional<Window> window;
  absl::Status status = ReadLines(folder, "iomem", ReadIomem, recording.memory);
  status.Update(
      ReadLines(folder, "zoneinfo.start", ReadZoneinfo, recording.zones));
  status.Update(ReadPages(folder, "kpageflags.start", recording.first));
  status.Update(
      ReadLines(folder, "buddyinfo.log", ReadBuddyinfo, recording.buddyinfo));
  status.Update(ReadLines(folder, "window.csv", ReadWindow, window));
  status.Update(ReadLines(
      folder, "reports.csv",
      [&](LineReader& lines) { return ReadReports(lines, recording.memory); },
      recording.reports));
  status.Update(ReadLines(folder, "rss.csv", ReadResident, recording.resident));
  if (!status.ok()) return status;
  if (window) {
    recording.start = window->start;
    recording.end = window->end;
  }
  return recording;
}

}  // namespace guestmm
