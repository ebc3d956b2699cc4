#include "src/experiment/density/resident_meter.h"

#include <algorithm>

namespace guestmm {

absl::Status ResidentMeter::BeginLaunch(const Guest& guest) {
  launching_ = &guest;
  peak_bytes_ = 0;
  return MeasureSettled().status();
}

void ResidentMeter::EndLaunch() { settled_.push_back({.guest = launching_}); }

absl::StatusOr<uint64_t> ResidentMeter::MeasureSettled() {
  settled_bytes_ = 0;
  for (SettledGuest& settled : settled_) {
    const uint64_t discards = settled.guest->counters().discard_calls;
    // In real time a discard may be under way.
    if (setup_.real_time || settled.discards != discards) {
      const absl::StatusOr<uint64_t> resident =
          settled.guest->ram().ResidentBytes();
      if (!resident.ok()) return resident;
      settled.resident_bytes = *resident;
      settled.discards = discards;
    }
    settled_bytes_ += settled.resident_bytes;
  }
  return settled_bytes_;
}

absl::StatusOr<uint64_t> ResidentMeter::Measure() {
  if (stopped_ && stopped_()) return absl::CancelledError("stopped");
  const absl::StatusOr<uint64_t> resident = launching_->ram().ResidentBytes();
  if (!resident.ok()) return resident;
  if (settled_bytes_ + *resident > setup_.host_bytes) {
    absl::Status status = MeasureSettled().status();
    if (!status.ok()) return status;
  }
  const uint64_t total = settled_bytes_ + *resident;
  peak_bytes_ = std::max(peak_bytes_, total);
  const int guests = static_cast<int>(settled_.size()) + 1;
  samples_.push_back({.policy = policy_,
                      .seconds = ToSeconds(clock_.Now()),
                      .guests = guests,
                      .resident_bytes = total});
  if (progress_) {
    progress_({.policy = policy_,
               .guest = guests,
               .resident_bytes = total,
               .host_bytes = setup_.host_bytes});
  }
  return total;
}

}  // namespace guestmm
