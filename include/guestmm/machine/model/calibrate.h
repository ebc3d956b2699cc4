#ifndef GUESTMM_MACHINE_MODEL_CALIBRATE_H_
#define GUESTMM_MACHINE_MODEL_CALIBRATE_H_

#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/machine/model/cost_model.h"

namespace guestmm {

// Where a cost comes from.
struct CalibratedCost {
  std::string_view name;  // of CostFields
  // Measured here, or CostModel's default: what no process can see of its own
  // machine (exits, interrupts), or what this machine does not have (huge
  // pages).
  bool measured = false;
};

struct Calibration {
  CostModel costs;
  // One for each field of CostModel, in CostFields' order.
  std::vector<CalibratedCost> sources;
};

// Measures what can be measured of CostModel, on one thread: each cost is the
// median of some repetitions, in whole nanoseconds. Takes a few seconds and 256
// MiB of memory. `progress`, if there is one, is told what is measured next.
// The error is of memory that could not be had.
absl::StatusOr<Calibration> Calibrate(
    const std::function<void(std::string_view what)>& progress);

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_CALIBRATE_H_
