#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_ROWS_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_ROWS_H_

// The columns of a CompareRow, and one row made of several.

#include <span>

#include "absl/status/statusor.h"
#include "guestmm/experiment/compare/compare.h"

namespace guestmm {

// Calls `visit` with the name and the member of each numeric column of a
// CompareRow, in the order of summary.json.
template <typename Visit>
void ForEachColumn(const Visit& visit) {
  visit("host_share_of_free", &CompareRow::host_share_of_free);
  visit("host_share_of_reportable", &CompareRow::host_share_of_reportable);
  visit("time_to_50_s", &CompareRow::time_to_50_s);
  visit("time_to_90_s", &CompareRow::time_to_90_s);
  visit("time_to_99_s", &CompareRow::time_to_99_s);
  visit("footprint_gib_min", &CompareRow::footprint_gib_min);
  visit("reported_over_needed", &CompareRow::reported_over_needed);
  visit("refaults_1s", &CompareRow::refaults_1s);
  visit("reports", &CompareRow::reports);
  visit("kicks", &CompareRow::kicks);
  visit("discard_calls", &CompareRow::discard_calls);
  visit("lock_max_us", &CompareRow::lock_max_us);
  visit("lock_mean_us", &CompareRow::lock_mean_us);
  visit("failed_while_isolated", &CompareRow::failed_while_isolated);
  visit("work", &CompareRow::work);
  visit("duration_seconds", &CompareRow::duration_seconds);
  visit("work_share_of_off", &CompareRow::work_share_of_off);
  visit("work_share_of_off_min", &CompareRow::work_share_of_off_min);
  visit("work_share_of_off_max", &CompareRow::work_share_of_off_max);
}

// The same for a Loss.
template <typename Visit>
void ForEachLoss(const Visit& visit) {
  visit("hook", &CompareRow::Loss::hook);
  visit("isolation", &CompareRow::Loss::isolation);
  visit("discard", &CompareRow::Loss::discard);
  visit("fault_back", &CompareRow::Loss::fault_back);
  visit("zeroing", &CompareRow::Loss::zeroing);
}

// The row of several runs of one workload under one policy: the median of each
// column, the lower one of two in the middle; unset where it is in most.
// REQUIRES: `rows` is not empty.
CompareRow MedianRow(std::span<const CompareRow> rows);

// The result of several processes that ran the same options: its rows are the
// medians of theirs, with the least and the most share of work. The repeats of
// its samples are numbered through all processes. FailedPrecondition if their
// rows differ in workload or policy. REQUIRES: `processes` is not empty.
absl::StatusOr<CompareResult> MergeProcesses(
    const CompareOptions& resolved, std::span<const CompareProcess> processes);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_ROWS_H_
