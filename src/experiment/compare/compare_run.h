#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_

// One run of the experiment: one workload under one mechanism.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/host/accounting/discard_log.h"
#include "guestmm/host/accounting/hold_times.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/machine.h"
#include "guestmm/machine/model/cost_kind.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/trace/recording.h"
#include "guestmm/workload/recipes.h"
#include "src/experiment/compare/work_meter.h"
#include "src/host/accounting/free_memory.h"

namespace guestmm {

// A workload and its guest, with the options' overrides.
struct CompareSetup {
  std::string name;
  // Off first.
  std::vector<MechanismSpec> mechanisms;
  Order granule{0};
  Nanoseconds rest{0};

  // Set for a recording, which leaves all below unset.
  std::shared_ptr<const Recording> recording = nullptr;

  const WorkloadRecipe* recipe = nullptr;
  uint64_t guest_bytes = 0;
  uint64_t vcpus = 1;
  Nanoseconds warmup{0};  // part of the duration
  Nanoseconds duration{0};
};

struct CompareRun {
  // Without the columns that are relative to the run without reporting.
  CompareRow row;
  std::vector<CompareSample> samples;
  // Memory in use, integrated like the row's footprint and never above it: no
  // page in use is discarded.
  double in_use_gib_min = 0;
  // The time at which the work ended; and, if it ended by the clock, how much
  // it was. Unset for a recording.
  Nanoseconds work_end{0};
  WorkAmount amount = {};
  std::optional<CompareRecording> recording = {};
  // In virtual time: what vCPUs spent since the boot, in ns.
  std::array<uint64_t, kCostKinds> spent{};
};

// The time between two samples.
inline constexpr std::chrono::seconds kSampleEvery(1);
// A run's work is cut off after this many times the setup's duration.
inline constexpr int kMostSlowdown = 10;

// Called from time to time with how much of the run is done, 0 to 1. False ends
// the run, which is then Cancelled.
using RunProgress = std::function<bool(double done)>;

// In virtual time. `amount`: the work to do; null: what fits in the setup's
// duration.
absl::StatusOr<CompareRun> RunVirtually(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const MechanismSpec& mechanism,
                                        const WorkAmount* amount,
                                        const RunProgress& progress);

// The same on threads, with RAM. `repeat`: its number, from 1.
absl::StatusOr<CompareRun> RunForReal(const CompareOptions& options,
                                      const CompareSetup& setup,
                                      const MechanismSpec& mechanism,
                                      uint64_t repeat, const WorkAmount* amount,
                                      const RunProgress& progress);

// Replays the setup's recording on the recorded pages. `mechanism` may be real.
// The error is Replay's. REQUIRES: setup.recording is set.
absl::StatusOr<CompareRun> RunRecording(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const MechanismSpec& mechanism,
                                        const RunProgress& progress);

// For both modes:

// Boots the guest's kernel on `machine` and makes the setup's load, which draws
// from `random`. ResourceExhausted if the kernel does not fit.
absl::StatusOr<GuestLoad> Boot(Machine& machine, const CompareSetup& setup,
                               Random& random);

// Starts `mechanism` on `machine`. The error is MakeMechanism's or
// Machine::StartMechanism's.
absl::Status StartMechanism(Machine& machine, const CompareOptions& options,
                            const CompareSetup& setup,
                            const MechanismSpec& mechanism);

// Sets work and duration_seconds.
void FillWork(const WorkMeter& meter, CompareRow& row);

// Sets the times until 50, 90 and 99 % of what was discarded after `from` was.
// `discards` ascend in time.
void FillTimes(Nanoseconds from, std::span<const DiscardedUntil> discards,
               CompareRow& row);

// Sets the shares of free memory.
void FillShares(const CompareOptions& options, const PageAllocator& allocator,
                ResidentPages resident, CompareRow& row);

// Sets the columns that the machine, its ledger and its mechanism count.
// REQUIRES: the machine has both.
void FillCounters(Machine& machine, CompareRow& row);

// Converts pages times microseconds to GiB times minutes.
double GibMinutes(double page_microseconds);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_
