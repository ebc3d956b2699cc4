#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_COLUMNS_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_COLUMNS_H_

#include "guestmm/experiment/compare/compare.h"

namespace guestmm {

// Calls `visit` with the name and the member of each column of a CompareRow
// that is a number, in the order of summary.json.
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

// The same of a Loss.
template <typename Visit>
void ForEachLoss(const Visit& visit) {
  visit("hook", &CompareRow::Loss::hook);
  visit("isolation", &CompareRow::Loss::isolation);
  visit("discard", &CompareRow::Loss::discard);
  visit("fault_back", &CompareRow::Loss::fault_back);
  visit("zeroing", &CompareRow::Loss::zeroing);
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_COLUMNS_H_
