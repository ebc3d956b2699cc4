#include "src/experiment/compare/compare_rows.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace guestmm {
namespace {

template <typename T>
T Median(std::span<const CompareRow> rows, T CompareRow::*column) {
  std::vector<T> values;
  for (const CompareRow& row : rows) values.push_back(row.*column);
  const auto middle =
      values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

CompareRow MedianRow(std::span<const CompareRow> rows) {
  CompareRow median = rows.front();
  ForEachColumn([&](std::string_view, auto column) {
    median.*column = Median(rows, column);
  });
  return median;
}

absl::StatusOr<CompareResult> MergeProcesses(
    const CompareOptions& resolved, std::span<const CompareProcess> processes) {
  CompareResult result;
  result.options = resolved;
  result.host = ReadHostInfo();
  result.complete = processes.size() == resolved.processes;
  if (processes.empty()) return result;
  const std::vector<CompareRow>& first = processes.front().rows;
  for (size_t i = 0; i < first.size(); ++i) {
    std::vector<CompareRow> rows;
    for (const CompareProcess& process : processes) {
      if (process.rows.size() != first.size() ||
          process.rows[i].workload != first[i].workload ||
          process.rows[i].policy != first[i].policy) {
        return absl::FailedPreconditionError(
            absl::StrCat("processes differ in row ", i, ": one has ",
                         first[i].workload, ", ", first[i].policy, " there"));
      }
      rows.push_back(process.rows[i]);
    }
    CompareRow row = MedianRow(rows);
    const auto [least, most] = std::minmax_element(
        rows.begin(), rows.end(), [](const CompareRow& a, const CompareRow& b) {
          return a.work_share_of_off < b.work_share_of_off;
        });
    row.work_share_of_off_min = least->work_share_of_off;
    row.work_share_of_off_max = most->work_share_of_off;
    result.rows.push_back(std::move(row));
  }
  for (size_t i = 0; i < processes.size(); ++i) {
    for (CompareSample sample : processes[i].samples) {
      sample.repeat += i * resolved.repeats;
      result.samples.push_back(std::move(sample));
    }
  }
  return result;
}

}  // namespace guestmm
