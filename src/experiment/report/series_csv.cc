#include "src/experiment/report/series_csv.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace guestmm {
namespace {

constexpr std::string_view kHeading =
    "workload,policy,mechanism,repeat,seconds,guests,resident_bytes,free_bytes,"
    "isolated_bytes,host_share_of_free";
constexpr size_t kColumns = 10;

// In quotes, which are doubled within, where it could end its cell.
std::string Cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += c;
    quoted += c;
  }
  return quoted + "\"";
}
std::string Cell(const std::optional<uint64_t>& number) {
  return number ? std::to_string(*number) : "";
}

// Takes the next line off `text`, which is not empty. False if its quotes are
// wrong.
bool TakeLine(std::string_view& text, std::vector<std::string>& cells) {
  cells.assign(1, "");
  bool quoted = false;
  size_t i = 0;
  for (; i < text.size() && (quoted || text[i] != '\n'); ++i) {
    const char c = text[i];
    if (c == '"' && quoted && text.substr(i + 1, 1) == "\"") {
      cells.back() += text[++i];
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  text.remove_prefix(std::min(i + 1, text.size()));
  return !quoted;
}

bool Parse(const std::string& cell, std::optional<uint64_t>& number) {
  return cell.empty() || absl::SimpleAtoi(cell, &number.emplace());
}

bool ParseSample(const std::vector<std::string>& cells, SeriesSample& sample) {
  if (cells.size() != kColumns) return false;
  sample.workload = cells[0];
  sample.policy = cells[1];
  sample.mechanism = cells[2];
  if (!cells[9].empty() &&
      !absl::SimpleAtod(cells[9], &sample.host_share_of_free.emplace())) {
    return false;
  }
  return Parse(cells[3], sample.repeat) &&
         absl::SimpleAtod(cells[4], &sample.seconds) &&
         Parse(cells[5], sample.guests) &&
         absl::SimpleAtoi(cells[6], &sample.resident_bytes) &&
         Parse(cells[7], sample.free_bytes) &&
         Parse(cells[8], sample.isolated_bytes);
}

absl::Status Wrong(std::string_view file, size_t line) {
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(file), ": line ", line, ": must be ", std::string(kHeading)));
}

}  // namespace

SeriesCsv::SeriesCsv() : text_(absl::StrCat(std::string(kHeading), "\n")) {}

void SeriesCsv::Add(const SeriesSample& sample) {
  const std::vector<std::string> cells = {
      Cell(sample.workload),
      Cell(sample.policy),
      Cell(sample.mechanism),
      Cell(sample.repeat),
      absl::StrFormat("%.3f", sample.seconds),
      Cell(sample.guests),
      Cell(sample.resident_bytes),
      Cell(sample.free_bytes),
      Cell(sample.isolated_bytes),
      sample.host_share_of_free
          ? absl::StrFormat("%.6f", *sample.host_share_of_free)
          : ""};
  absl::StrAppend(&text_, absl::StrJoin(cells, ","), "\n");
}

absl::StatusOr<std::vector<SeriesSample>> ParseSeriesCsv(
    std::string_view file, std::string_view text) {
  if (text.substr(0, text.find('\n')) != kHeading) return Wrong(file, 1);
  text.remove_prefix(std::min(kHeading.size() + 1, text.size()));
  std::vector<SeriesSample> samples;
  std::vector<std::string> cells;
  while (!text.empty()) {
    SeriesSample& sample = samples.emplace_back();
    if (!TakeLine(text, cells) || !ParseSample(cells, sample)) {
      return Wrong(file, samples.size() + 1);
    }
  }
  return samples;
}

}  // namespace guestmm
