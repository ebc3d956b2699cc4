#ifndef GUESTMM_MACHINE_MODEL_CALIBRATE_H_
#define GUESTMM_MACHINE_MODEL_CALIBRATE_H_

#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/machine/model/cost_model.h"

namespace guestmm {

// The source of a cost.
struct CalibratedCost {
  std::string_view name;  // of CostFields
  // True if it was measured. False if it is CostModel's default, because a
  // process cannot measure it (VM exits, interrupts) or this machine does not
  // have it (huge pages).
  bool measured = false;
};

struct Calibration {
  CostModel costs;
  // One for each field of CostModel, in CostFields' order.
  std::vector<CalibratedCost> sources;
};

// Measures those costs of CostModel that a process can measure, on one thread.
// Each is the median of several repetitions, in whole nanoseconds. Takes a few
// seconds and 256 MiB of memory. `progress`, if set, is called with the name of
// what is measured next. Returns the error of an allocation that failed.
absl::StatusOr<Calibration> Calibrate(
    const std::function<void(std::string_view what)>& progress);

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_CALIBRATE_H_
