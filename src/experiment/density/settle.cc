#include "src/experiment/density/settle.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/status/statusor.h"
#include "guestmm/machine/mechanism.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/workload/idle_workload.h"

namespace guestmm {
namespace {

// Between two steps of an idle guest, and two looks at a silent one.
constexpr std::chrono::milliseconds kPause(100);

// In virtual time, where waiting is free: the whole time, whatever is reported.
absl::Status SettleVirtually(const DensitySetup& setup, Guest& guest,
                             DensityTime& time, ResidentMeter& meter,
                             uint64_t idle_seed) {
  constexpr std::chrono::seconds kMeasureEvery(1);
  IdleWorkload idle(idle_seed);
  const Nanoseconds end =
      time.Now() +
      Nanoseconds(std::llround(setup.options.settle_seconds * 1e9));
  Nanoseconds measure_at = time.Now();
  while (time.Now() < end) {
    if (time.Now() >= measure_at) {
      absl::Status status = meter.Measure().status();
      if (!status.ok()) return status;
      measure_at += kMeasureEvery;
    }
    if (setup.options.idle_activity) idle.Step(guest.vcpu(0));
    time.Pass(kPause);
  }
  return meter.Measure().status();
}

// In real time: until the mechanism is at rest, or gives back next to nothing.
absl::Status SettleForReal(const DensitySetup& setup, Guest& guest,
                           DensityTime& time, ResidentMeter& meter,
                           uint64_t idle_seed) {
  const Mechanism& mechanism = *guest.mechanism();
  if (mechanism.name() == kMechanismOff) return absl::OkStatus();
  const Reporter* const reporter = guest.reporter();
  const DensityOptions& options = setup.options;
  const uint64_t little = setup.guest_bytes / 100;
  const Nanoseconds delay =
      reporter == nullptr ? Nanoseconds(0) : reporter->policy().delay();
  const double patience = ToSeconds(delay) + 1;
  const double deadline = ToSeconds(time.Now()) + options.settle_seconds;
  const uint64_t bytes_before = mechanism.counters().bytes;
  IdleWorkload idle(idle_seed);
  uint64_t requests_before_step = ~uint64_t{0};
  uint64_t lowest = ~uint64_t{0};
  double until = deadline;
  while (ToSeconds(time.Now()) < until) {
    const bool at_rest = guest.WaitUntilAtRest(kPause);
    const MechanismCounters counters = mechanism.counters();
    if (at_rest &&
        (counters.requests == requests_before_step || !options.idle_activity)) {
      break;
    }
    requests_before_step = counters.requests;
    if (options.idle_activity) idle.Step(guest.vcpu(0));
    if (at_rest) time.Pass(kPause);
    const absl::StatusOr<uint64_t> total = meter.Measure();
    if (!total.ok()) return total.status();
    const bool fell = *total + little <= lowest;
    if (fell) lowest = *total;
    // Nothing falls before the mechanism has begun, however long it waits.
    const bool begun = counters.bytes - bytes_before >= little;
    if (begun && (fell || until == deadline)) {
      until = std::min(deadline, ToSeconds(time.Now()) + patience);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Settle(const DensitySetup& setup, Guest& guest, DensityTime& time,
                    ResidentMeter& meter, uint64_t idle_seed) {
  const auto settle = setup.real_time ? SettleForReal : SettleVirtually;
  return settle(setup, guest, time, meter, idle_seed);
}

}  // namespace guestmm
