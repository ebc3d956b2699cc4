#include "src/sim/compare_median.h"

#include <algorithm>
#include <optional>
#include <vector>

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
  const auto take = [&](auto... columns) {
    ((median.*columns = Median(rows, columns)), ...);
  };
  take(&CompareRow::host_share_of_free, &CompareRow::host_share_of_reportable,
       &CompareRow::time_to_50_s, &CompareRow::time_to_90_s,
       &CompareRow::time_to_99_s, &CompareRow::footprint_gib_min,
       &CompareRow::reported_over_needed, &CompareRow::refaults_1s,
       &CompareRow::reports, &CompareRow::kicks, &CompareRow::discard_calls,
       &CompareRow::lock_max_us, &CompareRow::lock_mean_us,
       &CompareRow::failed_while_isolated, &CompareRow::work,
       &CompareRow::work_share_of_off);
  return median;
}

}  // namespace guestmm
