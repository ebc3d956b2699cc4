#include "src/trace/csv_files.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/trace/parse.h"
#include "src/trace/proc_files.h"

namespace guestmm::trace {
namespace {

using Row = std::vector<std::string_view>;

// The fields of a line, without the spaces around them.
Row FieldsOf(std::string_view line) {
  Row fields;
  while (true) {
    const size_t comma = line.find(',');
    std::string_view field = line.substr(0, comma);
    SkipSpaces(field);
    const size_t end = field.find_last_not_of(" \t");
    fields.push_back(
        field.substr(0, end == std::string_view::npos ? 0 : end + 1));
    if (comma == std::string_view::npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

bool IsTime(std::string_view field, Nanoseconds& time) {
  return TakeTime(field, time) && field.empty();
}

bool IsReal(std::string_view field, double& value) {
  return TakeReal(field, value) && field.empty();
}

// A whole number: "0x8000000", "134217728", "134217728.0" or "1.34217728e+08".
bool IsWhole(std::string_view field, uint64_t& value) {
  constexpr double kMostExact = 0x1p53;
  std::string_view rest = field;
  if (TakeNumber(rest, value) && rest.empty()) return true;
  double real = 0;
  if (!IsReal(field, real) || real < 0 || real > kMostExact ||
      real != std::floor(real)) {
    return false;
  }
  value = static_cast<uint64_t>(real);
  return true;
}

// Reads a CSV, calling take(row, wrong) for each line after the heading, which
// has as many fields. It returns false for a malformed line; for a number out
// of bounds it sets `wrong` to what was expected.
template <typename Take>
absl::Status ReadCsv(LineReader& lines, const std::string& heading, Take take) {
  const Row columns = FieldsOf(heading);
  std::string_view line;
  if (!lines.Next(line) || FieldsOf(line) != columns) {
    if (!lines.status().ok()) return lines.status();
    return lines.Expected(line, absl::StrCat("the heading ", heading));
  }
  while (lines.Next(line)) {
    const Row row = FieldsOf(line);
    if (row.size() == 1 && row[0].empty()) continue;
    std::string wrong;
    if (row.size() != columns.size() || !take(row, wrong)) {
      wrong = absl::StrCat("numbers: ", heading);
    }
    if (!wrong.empty()) return lines.Expected(line, wrong);
  }
  return lines.status();
}

template <typename T>
void SortByTime(std::vector<T>& all) {
  std::stable_sort(all.begin(), all.end(),
                   [](const T& a, const T& b) { return a.time < b.time; });
}

}  // namespace

absl::StatusOr<std::vector<Recording::Report>> ReadReports(
    LineReader& lines, const std::vector<GpaRange>& memory) {
  // The end and the size of a report are bounded, since comparing reports takes
  // memory for each 2 MiB of them.
  uint64_t end = kGuestAddresses;
  uint64_t most = kTiB;
  if (!memory.empty()) {
    end = (memory.back().gpa + memory.back().bytes).value();
    most = 0;
    for (const GpaRange& range : memory) most += range.bytes;
  }
  std::vector<Recording::Report> reports;
  const absl::Status status = ReadCsv(
      lines, "time_s,gpa,bytes", [&](const Row& row, std::string& wrong) {
        Recording::Report report;
        uint64_t gpa = 0;
        if (!IsTime(row[0], report.time) || !IsWhole(row[1], gpa) ||
            !IsWhole(row[2], report.range.bytes)) {
          return false;
        }
        if (report.range.bytes > most) {
          wrong = absl::StrCat(most, " bytes at most",
                               memory.empty() ? "" : ": all of iomem's RAM");
        } else if (gpa > end - report.range.bytes) {
          wrong = absl::StrFormat("a range that ends by 0x%x%s", end,
                                  memory.empty() ? "" : ", as iomem's RAM");
        } else if ((gpa | report.range.bytes) % kPageSize != 0) {
          wrong = "gpa and bytes of whole pages of 4096 bytes";
        }
        report.range.gpa = Gpa(gpa);
        reports.push_back(report);
        return true;
      });
  if (!status.ok()) return status;
  SortByTime(reports);
  return reports;
}

absl::StatusOr<std::vector<Recording::Plug>> ReadPlugs(LineReader& lines) {
  std::vector<Recording::Plug> plugs;
  const absl::Status status = ReadCsv(
      lines, "time_s,gpa,bytes", [&](const Row& row, std::string& wrong) {
        Recording::Plug plug;
        uint64_t gpa = 0;
        std::string_view bytes = row[2];
        plug.removed = TakeWord(bytes, "-");
        if (!IsTime(row[0], plug.time) || !IsWhole(row[1], gpa) ||
            !IsWhole(bytes, plug.range.bytes)) {
          return false;
        }
        if (plug.range.bytes == 0 || plug.range.bytes > kGuestAddresses ||
            gpa > kGuestAddresses - plug.range.bytes) {
          wrong = absl::StrFormat("a range that is not empty and ends by 0x%x",
                                  kGuestAddresses);
        } else if ((gpa | plug.range.bytes) % kPageSize != 0) {
          wrong = "gpa and bytes of whole pages of 4096 bytes";
        }
        plug.range.gpa = Gpa(gpa);
        plugs.push_back(plug);
        return true;
      });
  if (!status.ok()) return status;
  SortByTime(plugs);
  return plugs;
}

absl::StatusOr<std::vector<Recording::Resident>> ReadResident(
    LineReader& lines) {
  constexpr uint64_t kMostKib = kGuestAddresses / kKiB;
  std::vector<Recording::Resident> samples;
  const absl::Status status = ReadCsv(
      lines, "time_s,resident_kib", [&](const Row& row, std::string& wrong) {
        Recording::Resident sample;
        double kib = 0;
        if (!IsTime(row[0], sample.time) || !IsReal(row[1], kib) || kib < 0) {
          return false;
        }
        if (kib > static_cast<double>(kMostKib)) {
          wrong = absl::StrCat(kMostKib, " KiB at most");
          return true;
        }
        sample.bytes = static_cast<uint64_t>(
            std::llround(kib * static_cast<double>(kKiB)));
        samples.push_back(sample);
        return true;
      });
  if (!status.ok()) return status;
  SortByTime(samples);
  return samples;
}

absl::StatusOr<Window> ReadWindow(LineReader& lines) {
  std::optional<Window> window;
  const absl::Status status =
      ReadCsv(lines, "start_s,end_s", [&](const Row& row, std::string& wrong) {
        if (window) wrong = "one line after the heading";
        window.emplace();
        if (!IsTime(row[0], window->start) || !IsTime(row[1], window->end)) {
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

}  // namespace guestmm::trace
