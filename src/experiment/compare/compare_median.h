#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_MEDIAN_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_MEDIAN_H_

#include <span>

#include "guestmm/experiment/compare/compare.h"

namespace guestmm {

// The row of several runs of one workload under one policy: each column's
// median, the lower one of two in the middle; absent where it is in most.
// REQUIRES: rows is not empty.
CompareRow MedianRow(std::span<const CompareRow> rows);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_MEDIAN_H_
