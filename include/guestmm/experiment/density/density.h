#ifndef GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_
#define GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_

// The experiment of the v12 cover letter: guests of 5 GiB, each with a workload
// that touches 4 to 5 GiB and then frees it, are launched one after another on
// a host with 15 GiB and no swap. How many fit?
//
// Real memory behind every guest, and the kernel's word for what is resident. A
// guest fits if its workload ran to its end and freed everything without the
// resident memory of all guests having passed the host's.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/policies.h"

namespace guestmm {

enum class HypervisorKind {
  kMadvise,  // discards with MADV_DONTNEED
  kNone,     // acknowledges and keeps everything
};

struct DensityOptions {
  // All sizes below are multiplied by it. Absent: what the machine's free
  // memory allows, at most kDefaultScale.
  std::optional<double> scale = {};
  uint64_t guest_bytes = 5 * kGiB;
  uint64_t host_bytes = 15 * kGiB;
  // What each guest's kernel keeps in use.
  uint64_t footprint_bytes = 256 * kMiB;
  // Each workload grows to between this and what is free above the low
  // watermark, drawn from the seed.
  uint64_t workload_min_bytes = 4 * kGiB;

  uint64_t seed = 1;
  std::vector<std::string> policies = {"off", "v12"};
  PolicyDefaults policy_parameters = {};
  HypervisorKind hypervisor = HypervisorKind::kMadvise;
  HugePages huge_pages = HugePages::kHostDefault;
  // Where a VMM listens that has the balloons' devices (GuestOptions): RAM is
  // then in memfds, in each row. Empty: all in this process.
  std::string vmm_socket = {};
  // Whether a guest whose workload has ended goes on as an idle guest does
  // (IdleWorkload), or never touches its memory again.
  bool idle_activity = true;
  // How long to wait, at most, for a guest to settle after its workload. It has
  // settled when its reporter is at rest and a step of its idle life makes for
  // no more reports. Under a policy that waits before it reports, idle life
  // always does: there it has settled when, after a hundredth of the guest or
  // more was reported, resident memory has not fallen by as much again for the
  // policy's delay and a second more.
  double settle_seconds = 10;
  // Where a policy's row ends even if more would fit.
  int max_guests = 100;
};

// Large enough for the curve, small enough for a minute on two processors.
inline constexpr double kDefaultScale = 0.1;
inline constexpr double kMinScale = 0.02;
inline constexpr double kMaxScale = 64;
// Of every size, before scaling.
inline constexpr uint64_t kMaxDensityBytes = 64 * kTiB;

// One guest that fit.
struct DensityLaunch {
  uint64_t workload_bytes = 0;
  // Of all guests, at the workload's peak.
  uint64_t host_peak_bytes = 0;
  // Of this guest, when it had come to rest.
  uint64_t resident_bytes = 0;
};

// The columns that do not apply to a row (the limit's) are absent.
struct DensityRow {
  std::string policy;
  int guests = 0;
  // Of the guests that fit, when the last had come to rest.
  uint64_t resident_bytes = 0;
  // Bytes of guest memory that were reported and acknowledged; and that the
  // hypervisor then gave to the host, resident or not: in a process of its own,
  // it alone knows, as discard_calls.
  uint64_t reported_bytes = 0;
  std::optional<uint64_t> discarded_bytes;
  std::optional<uint64_t> reports;
  std::optional<uint64_t> discard_calls;
  std::optional<double> seconds;
  // Why it ended where it did, unless the host's memory was exceeded.
  std::string stopped;
  std::vector<DensityLaunch> launches;
};

// Resident memory of all guests at one moment of a policy's run.
struct DensitySample {
  std::string policy;
  double seconds = 0;
  int guests = 0;  // launched, the one being launched included
  uint64_t resident_bytes = 0;
};

struct DensityResult {
  DensityOptions options;  // resolved: with scale, and sizes multiplied by it
  HostInfo host;
  std::vector<DensityRow> rows;
  std::vector<DensitySample> samples;
};

// What is going on, several times a second.
struct DensityProgress {
  std::string_view policy;
  int guest = 0;  // from 1
  uint64_t resident_bytes = 0;
  uint64_t host_bytes = 0;
};

// The options with every default filled in and sizes multiplied by the scale.
// InvalidArgument begins with the name of the option as the command line has it
// and its value, and says what is allowed. `available_bytes`: what the machine
// has free.
absl::StatusOr<DensityOptions> ResolveDensity(const DensityOptions& options,
                                              uint64_t available_bytes);

// Runs the experiment, a row for each policy and one for the limit. The error
// is of a guest that could not be made or measured, or lost memory in use.
// REQUIRES: `resolved` comes from ResolveDensity.
absl::StatusOr<DensityResult> RunDensity(
    const DensityOptions& resolved,
    const std::function<void(const DensityProgress&)>& progress);

// summary.json and series.csv of `result`.
std::string DensitySummaryJson(const DensityResult& result);
std::string DensitySeriesCsv(const DensityResult& result);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_
