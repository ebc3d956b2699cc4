#ifndef GUESTMM_MACHINE_MODEL_CALIBRATE_H_
#define GUESTMM_MACHINE_MODEL_CALIBRATE_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/machine/model/cost_model.h"

namespace GUESTMM_EXPORT guestmm {

// The source of a cost.
struct CalibratedCost {
  std::string_view name;  // of CostFields
  // True if it was measured. False if it is CostModel's default, because a
  // process cannot measure it (VM exits, interrupts) or this machine does not
  // have it (huge pages).
  bool measured = false;
};

// A part of the measurements whose repetitions differ so much that other work
// must have run on this machine: its costs are not to be trusted.
struct UnsteadyMeasurement {
  std::string what;     // as progress names it
  double spread = 0;    // the largest of its costs: the middle half of the
                        // repetitions, as a share of their median
  size_t outliers = 0;  // the most of its costs: repetitions of more than
                        // twice the median
};

struct Calibration {
  CostModel costs;
  // One for each field of CostModel, in CostFields' order.
  std::vector<CalibratedCost> sources;
  // Empty on a machine that was idle enough.
  std::vector<UnsteadyMeasurement> unsteady;
};

// Measures those costs of CostModel that a process can measure, on one thread.
// Each is the median of several repetitions, in whole nanoseconds. Takes a few
// seconds and 140 MiB of memory. `progress`, if set, is called with the name of
// what is measured next. Returns the error of an allocation that failed.
absl::StatusOr<Calibration> Calibrate(
    const std::function<void(std::string_view what)>& progress);

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_CALIBRATE_H_
