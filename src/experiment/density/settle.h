#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_SETTLE_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_SETTLE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/machine/real/guest.h"
#include "src/experiment/density/density_time.h"
#include "src/experiment/density/resident_meter.h"

namespace guestmm {

// Lets `guest`, whose workload has ended and whose launch is under way, settle
// (DensityOptions::settle_seconds), and measures meanwhile. The error of a
// measurement.
absl::Status Settle(const DensitySetup& setup, Guest& guest, DensityTime& time,
                    ResidentMeter& meter, uint64_t idle_seed);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_SETTLE_H_
