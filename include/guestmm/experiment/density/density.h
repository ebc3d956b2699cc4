#ifndef GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_
#define GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_

// The experiment of the v12 cover letter: guests of 5 GiB, each with a workload
// that touches 4 to 5 GiB and then frees it, are launched one after another on
// a host with 15 GiB and no swap. How many fit?
//
// RAM is real, and so is all that happens to it: allocation, virtqueues,
// madvise, and what the kernel then says is resident. A guest fits if its
// workload ran to its end and freed everything, and the resident memory of all
// guests never exceeded the host's.
//
// Time is virtual by default: the guests of a row share one VirtualTime, and
// waiting takes none of the caller's time. The same seed gives the same
// guests, reports and bytes in every run. A VirtualTime charges, by CostModel:
//
//   a vCPU        each block that it allocates or frees; each touch, as a first
//                 touch: the guest's fault and clearing, and for each page of 4
//                 KiB the host's exit, fault and clearing; each page it reads
//   the reporter  each report: the way into the ring and out of it, kick,
//                 interrupt, one discard call for each run of adjacent ranges,
//                 and each page of 4 KiB, as if it were resident
//
// A vCPU goes on while its guest's report is out, so a policy meets the load
// that it would meet on threads. Not charged: locks and waiting for them, the
// policy's own work, and interruptions of vCPUs by discards.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/host/accounting/run_info.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/policies.h"

namespace GUESTMM_EXPORT guestmm {

enum class HypervisorKind {
  kMadvise,  // discards with MADV_DONTNEED
  kNone,     // acknowledges and keeps everything
};

// Guests of 512 MiB on a host of 1.5 GiB.
inline constexpr double kDefaultScale = 0.1;
inline constexpr double kMinScale = 0.02;
inline constexpr double kMaxScale = 64;
// The largest size of a guest and of a host.
inline constexpr uint64_t kMaxDensityBytes = 64 * kTiB;

struct DensityOptions {
  // Multiplies the cover letter's 5 GiB of a guest and 15 GiB of the host. It
  // applies only to sizes that are unset below.
  double scale = kDefaultScale;
  // Unset: 5 GiB times the scale.
  std::optional<uint64_t> guest_bytes = {};
  // Unset: 15 GiB times the scale.
  std::optional<uint64_t> host_bytes = {};
  // The memory that each guest's kernel keeps in use. Unset: 1/20 of the guest.
  std::optional<uint64_t> footprint_bytes = {};
  // Each workload grows to between this and what is free above the low
  // watermark, drawn from the seed. Unset: 4/5 of the guest.
  std::optional<uint64_t> workload_min_bytes = {};

  uint64_t seed = 1;
  // The guests' kernel, for its page allocator. v12 was posted for 5.3.
  KernelVersion kernel = KernelVersion::kV5_3;
  // As --policies takes them ("off", "linux:order=5"). Empty: `mechanisms`, or
  // if that is empty too off, v12, linux and adaptive.
  std::vector<std::string> policies = {};
  // The same as --mechanisms takes them ("off", "reporting:linux:order=5").
  // Only one of the two may be set; ResolveDensity sets `policies` and empties
  // this.
  std::vector<std::string> mechanisms = {};
  PolicyDefaults policy_parameters = {};
  HypervisorKind hypervisor = HypervisorKind::kMadvise;
  HugePages huge_pages = HugePages::kHostDefault;
  // Runs guests and devices on threads, in real time. No two such runs are the
  // same. Unset: only with a vmm_socket, which requires it.
  std::optional<bool> real_time = {};
  // The socket of a VMM that has the balloons' devices (GuestOptions): RAM is
  // then in memfds, in each row, and time is real. Empty: all in this process.
  std::string vmm_socket = {};
  // True if a guest whose workload has ended goes on as an idle guest does
  // (IdleWorkload) until the next guest is launched. False: it never touches
  // its memory again.
  bool idle_activity = true;
  // The time for which a guest settles after its workload before the next is
  // launched. In real time that is the most: it has settled when its reporter
  // is at rest and a step of its idle life makes for no more reports. Under a
  // policy that waits before it reports, idle life always makes for more: there
  // it has settled when, after a hundredth of the guest or more was reported,
  // resident memory has not fallen by as much again for the policy's delay and
  // a second more.
  double settle_seconds = 10;
  // The number of guests at which a policy's row ends even if more would fit.
  int max_guests = 100;
};
// All members but lists.
const Fields<DensityOptions>& DensityFields();

// Options that were checked, and the sizes that follow from them.
struct DensitySetup {
  // With `policies`.
  DensityOptions options;
  bool real_time = false;
  // The unit in which the host maps guest RAM, as far as this machine can.
  Order granule;
  uint64_t guest_bytes = 0;
  uint64_t host_bytes = 0;
  uint64_t footprint_bytes = 0;
  uint64_t workload_min_bytes = 0;
};

// One guest that fit.
struct DensityLaunch {
  uint64_t workload_bytes = 0;
  // Of all guests, at the workload's peak.
  uint64_t host_peak_bytes = 0;
  // Of this guest, when it had settled.
  uint64_t resident_bytes = 0;
};

// Columns that do not apply to a row are unset.
struct DensityRow {
  // "off", a policy ("linux:order=5"), or "limit".
  std::string policy;
  int guests = 0;
  // Of the guests that fit, when the last had settled.
  uint64_t resident_bytes = 0;
  // Bytes of guest memory that were reported and acknowledged; and bytes that
  // the hypervisor then discarded, resident or not. A VMM in another process
  // does not say how many those were, nor by how many calls.
  uint64_t reported_bytes = 0;
  std::optional<uint64_t> discarded_bytes;
  std::optional<uint64_t> reports;
  std::optional<uint64_t> discard_calls;
  // In the row's own time, virtual or real.
  std::optional<double> seconds;
  // The reason why the row ended. Empty: the host's memory was exceeded.
  std::string stopped;
  std::vector<DensityLaunch> launches;
};

// Resident memory of all guests at one moment of a policy's run.
struct DensitySample {
  std::string policy;
  double seconds = 0;
  int guests = 0;  // launched, including the one being launched
  uint64_t resident_bytes = 0;
};

struct DensityResult {
  DensitySetup setup;
  HostInfo host;
  RunInfo run;  // for the caller to fill in
  // False if the run was stopped, or ended by an error: `rows` are those that
  // were done, and limit.
  bool complete = true;
  // The error that ended the run after its first row.
  absl::Status status = {};
  std::vector<DensityRow> rows;
  std::vector<DensitySample> samples;
};

// The state of a run, with each measurement.
struct DensityProgress {
  std::string_view policy;
  int guest = 0;  // from 1
  // The guests that fit under the limit, at most --max-guests.
  int most_guests = 0;
  uint64_t resident_bytes = 0;
  uint64_t host_bytes = 0;
};

// Checks the options and works out the sizes. OptionError names what is wrong.
// `available`: AvailableMemory's answer; its error, unless that is unknown.
absl::StatusOr<DensitySetup> ResolveDensity(
    const DensityOptions& options, const absl::StatusOr<uint64_t>& available);

// Runs the experiment: a row for each policy, and last one for the limit. The
// error is that of a guest that could not be made or measured; DataLoss, if a
// page in use lost its contents; ResourceExhausted, if the machine ran out of
// memory. After the first row it is DensityResult::status, and the rows that
// were done are kept. `progress` may be null. `stopped`, unless null, is asked
// with each measurement; once it returns true the result is not complete.
// REQUIRES: `setup` comes from ResolveDensity.
absl::StatusOr<DensityResult> RunDensity(
    const DensitySetup& setup,
    const std::function<void(const DensityProgress&)>& progress,
    const std::function<bool()>& stopped = {});

// summary.json and series.csv of `result`. In virtual time they are the same in
// every run, but for `versions`, `host` and `run` of the summary.
std::string DensitySummaryJson(const DensityResult& result);
std::string DensitySeriesCsv(const DensityResult& result);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_DENSITY_DENSITY_H_
