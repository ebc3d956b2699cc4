#ifndef GUESTMM_SRC_MACHINE_MODEL_REPETITIONS_H_
#define GUESTMM_SRC_MACHINE_MODEL_REPETITIONS_H_

#include <cstddef>
#include <vector>

namespace guestmm {

// What several repetitions of one measurement took.
struct Repetitions {
  double median = 0;
  // From the lower to the upper quartile, as a share of the median.
  double spread = 0;
  // Those that took more than twice the median.
  size_t outliers = 0;

  // REQUIRES: there are times.
  static Repetitions Of(std::vector<double> times);

  // False if something else has used the processor, or its caches, so much
  // that the median is not to be trusted.
  bool IsSteady() const;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_REPETITIONS_H_
