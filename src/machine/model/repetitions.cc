#include "src/machine/model/repetitions.h"

#include <algorithm>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {

Repetitions Repetitions::Of(std::vector<double> times) {
  GUESTMM_CHECK(!times.empty()) << "nothing was measured";
  std::sort(times.begin(), times.end());
  const size_t last = times.size() - 1;
  Repetitions result = {.median = times[times.size() / 2]};
  if (result.median <= 0) return result;
  result.spread = (times[last * 3 / 4] - times[last / 4]) / result.median;
  result.outliers = static_cast<size_t>(
      std::count_if(times.begin(), times.end(),
                    [&](double time) { return time > 2 * result.median; }));
  return result;
}

bool Repetitions::IsSteady() const {
  constexpr double kMostSpread = 0.3;
  // The first repetition finds cold caches; a second one may be interrupted.
  constexpr size_t kMostOutliers = 2;
  return spread <= kMostSpread && outliers <= kMostOutliers;
}

}  // namespace guestmm
