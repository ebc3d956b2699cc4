#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_

// One run of `guestmm compare`: a workload under one policy, or without.

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
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/host/accounting/discard_log.h"
#include "guestmm/host/accounting/hold_times.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/cost_kind.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/trace/recording.h"
#include "guestmm/workload/recipes.h"
#include "src/host/accounting/free_memory.h"

namespace guestmm {

// A workload and its guest, with the options' overrides.
struct CompareSetup {
  std::string name;
  // By name, off first.
  std::vector<std::string> policies;
  Order granule{0};
  Nanoseconds rest{0};

  // Of a recording, and nothing below.
  std::shared_ptr<const Recording> recording = nullptr;

  const WorkloadRecipe* recipe = nullptr;
  uint64_t guest_bytes = 0;
  uint64_t vcpus = 1;
  Nanoseconds warmup{0};  // of the duration
  Nanoseconds duration{0};
};

struct CompareRun {
  // What does not depend on the run without reporting.
  CompareRow row;
  std::vector<CompareSample> samples;
  // What vCPUs had allocated, as the row's footprint.
  double allocated_gib_min = 0;
  std::optional<CompareRecording> recording = {};
  // In virtual time: what vCPUs spent, in ns.
  std::array<uint64_t, kCostKinds> spent{};
};

// How often a sample is taken.
inline constexpr std::chrono::seconds kSampleEvery(1);

// Told from time to time how much of the run is done, 0 to 1.
using RunProgress = std::function<void(double done)>;

absl::StatusOr<CompareRun> RunVirtually(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const std::string& policy,
                                        const RunProgress& progress);

// On threads, with RAM. `repeat`: which one it is, from 1.
absl::StatusOr<CompareRun> RunForReal(const CompareOptions& options,
                                      const CompareSetup& setup,
                                      const std::string& policy,
                                      uint64_t repeat,
                                      const RunProgress& progress);

// What both modes do the same.

// How long after `from` as many percent of what came back since had come: 50,
// 90 and 99.
void FillTimes(Nanoseconds from, std::span<const DiscardedUntil> discards,
               CompareRow& row);

// Has the guest's kernel take what it keeps. ResourceExhausted if there is not
// that much.
absl::Status BootGuest(Vcpu& vcpu, uint64_t guest_bytes);

// The options', with the host's granule.
PolicyParameters ParametersFor(const CompareOptions& options, Order granule);

// Null for off.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyFor(
    const CompareOptions& options, const CompareSetup& setup,
    const std::string& policy);

// The columns of the shares of free memory.
void FillShares(const CompareOptions& options, const PageAllocator& allocator,
                ResidentPages resident, CompareRow& row);

// The columns that the ledger, the allocator, the reporter and its holds tell.
// `reporter` is null without reporting.
void FillRow(const PageAllocator& allocator, const HostLedger& ledger,
             const Reporter* reporter, const HoldTimes& holds, CompareRow& row);

// A footprint, of pages times microseconds.
double GibMinutes(double page_microseconds);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RUN_H_
