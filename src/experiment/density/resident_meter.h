#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_RESIDENT_METER_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_RESIDENT_METER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/machine/real/guest.h"

namespace guestmm {

// Measures the resident memory of a row's guests. A look-up of a guest costs
// milliseconds, so settled guests are looked at only when one is launched, and
// where the host's memory seems exceeded: they can only have handed back more.
// In virtual time those that discarded nothing since are not looked at again.
class ResidentMeter {
 public:
  // All must outlive this.
  ResidentMeter(const DensitySetup& setup, std::string policy,
                const Clock& clock,
                const std::function<void(const DensityProgress&)>& progress,
                const std::function<bool()>& stopped,
                std::vector<DensitySample>& samples)
      : setup_(setup),
        policy_(std::move(policy)),
        clock_(clock),
        progress_(progress),
        stopped_(stopped),
        samples_(samples) {}

  // Begins the launch of `guest`, which must outlive this.
  absl::Status BeginLaunch(const Guest& guest);
  // Ends it: the guest has settled.
  void EndLaunch();
  // Measures all guests, and adds a sample. Cancelled if the run was stopped.
  // REQUIRES: a launch is under way.
  absl::StatusOr<uint64_t> Measure();
  // Measures settled guests only. They touch no more memory.
  absl::StatusOr<uint64_t> MeasureSettled();
  // The largest measurement since the launch began.
  uint64_t peak_bytes() const { return peak_bytes_; }

 private:
  struct SettledGuest {
    const Guest* guest;
    // As of the last measurement. Unset: never measured.
    std::optional<uint64_t> discards = {};
    uint64_t resident_bytes = 0;
  };

  const DensitySetup& setup_;
  const std::string policy_;
  const Clock& clock_;
  const std::function<void(const DensityProgress&)>& progress_;
  const std::function<bool()>& stopped_;
  std::vector<DensitySample>& samples_;

  std::vector<SettledGuest> settled_;
  const Guest* launching_ = nullptr;
  // Of the settled guests, when last measured.
  uint64_t settled_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_RESIDENT_METER_H_
