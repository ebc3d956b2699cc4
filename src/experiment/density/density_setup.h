#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_SETUP_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_SETUP_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

// Makes a row's policy, with the granule of the machine's memory. Null for off.
// Else the error of MakePolicy.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyFor(
    const DensitySetup& setup, const std::string& policy);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_DENSITY_SETUP_H_
