#include "guestmm/trace/recording.h"

#include <algorithm>
#include <filesystem>
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
#include "src/trace/proc_files.h"

namespace guestmm {
namespace {

using trace::ByteSource;
using trace::LineReader;

// Reads a CSV, calling take(rest, wrong) for each line after the heading. It
// returns false for a malformed line; for a number out of bounds it sets
// `wrong` to what was expected.
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

// `memory` is the guest's, ascending; empty if unknown.
absl::StatusOr<std::vector<Recording::Report>> ReadReports(
    LineReader& lines, const std::vector<GpaRange>& memory) {
  // The end and the size of a report are bounded, since comparing reports takes
  // memory for each 2 MiB of them.
  uint64_t end = trace::kGuestAddresses;
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
        if (!trace::TakeTime(rest, report.time) ||
            !trace::TakeWord(rest, ",") || !trace::TakeNumber(rest, gpa) ||
            !trace::TakeWord(rest, ",") ||
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
  constexpr uint64_t kMostKib = trace::kGuestAddresses / kKiB;
  std::vector<Recording::Resident> samples;
  const absl::Status status = ReadCsv(
      lines, "time_s,resident_kib",
      [&](std::string_view& rest, std::string& wrong) {
        Recording::Resident sample;
        uint64_t kib = 0;
        if (!trace::TakeTime(rest, sample.time) ||
            !trace::TakeWord(rest, ",") || !trace::TakeDecimal(rest, kib)) {
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
        if (!trace::TakeTime(rest, window->start) ||
            !trace::TakeWord(rest, ",") ||
            !trace::TakeTime(rest, window->end)) {
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

// The path of the file `name` in `folder`, plain or compressed; absent if there
// is none.
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

// Reads the file `name` in `folder`, if it exists, into `value` with `read`.
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
  absl::StatusOr<RecordedPages> result = trace::ReadKpageflags(**bytes, *path);
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
          ": must have a trace: trace.gmtrace, trace.txt, trace_pipe or trace, "
          "plain, .zst or .gz"));
    }
  } else if (std::filesystem::exists(folder, ignored)) {
    recording.trace_path = path;
    folder = folder.parent_path();
  } else {
    return absl::NotFoundError(
        absl::StrCat(path,
                     ": must be a trace or a recording's folder; none is "
                     "there"));
  }

  std::optional<Window> window;
  absl::Status status =
      ReadLines(folder, "iomem", trace::ReadIomem, recording.memory);
  status.Update(ReadLines(folder, "zoneinfo.start", trace::ReadZoneinfo,
                          recording.zones));
  status.Update(ReadLines(folder, "zoneinfo.end", trace::ReadZoneinfo,
                          recording.zones_at_end));
  status.Update(ReadPages(folder, "kpageflags.start", recording.first));
  status.Update(ReadLines(folder, "buddyinfo.log", trace::ReadBuddyinfo,
                          recording.buddyinfo));
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
