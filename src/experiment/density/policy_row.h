#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_POLICY_ROW_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_POLICY_ROW_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/workload/burst_workload.h"
#include "src/experiment/density/density_time.h"
#include "src/experiment/density/resident_meter.h"

namespace guestmm {

// Creates a guest in `time` that runs `mechanism`, with its kernel's footprint
// in use.
absl::StatusOr<std::unique_ptr<Guest>> BootGuest(const DensitySetup& setup,
                                                 const MechanismSpec& mechanism,
                                                 DensityTime& time);

// One mechanism's guests, launched one after another until one does not fit.
class PolicyRow {
 public:
  // The references must outlive this.
  PolicyRow(const DensitySetup& setup, const MechanismSpec& mechanism,
            const std::function<void(const DensityProgress&)>& progress,
            const std::function<bool()>& stopped,
            std::vector<DensitySample>& samples);

  // Runs it, once. Cancelled if it was stopped.
  absl::StatusOr<DensityRow> Run();

 private:
  // Runs the next guest until it has settled. False if it did not fit.
  absl::StatusOr<bool> Launch();
  // False if the guest did not fit.
  absl::StatusOr<bool> RunWorkload(Guest& guest, BurstWorkload& workload);
  // The row, when no more guests are launched.
  absl::StatusOr<DensityRow> Finish();

  const DensitySetup& setup_;
  const MechanismSpec& mechanism_;
  const std::unique_ptr<DensityTime> time_;
  // The last one may not have fit.
  std::vector<std::unique_ptr<Guest>> guests_;
  ResidentMeter meter_;
  DensityRow row_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_POLICY_ROW_H_
