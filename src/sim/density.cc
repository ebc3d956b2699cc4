#include "guestmm/sim/density.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/hypervisor/test_hypervisors.h"
#include "guestmm/sim/burst_workload.h"
#include "guestmm/sim/guest.h"
#include "guestmm/sim/idle_workload.h"

namespace guestmm {
namespace {

// What the machine must keep free beside the host's share: metadata, this
// program, and what a workload may touch between two measurements.
constexpr uint64_t kMachineReserve = 256 * kMiB;

uint64_t MemoryNeeded(uint64_t host_bytes) {
  return host_bytes + host_bytes / 32 + kMachineReserve;
}

// A guest of less has no room for watermarks and a workload.
constexpr uint64_t kSmallestGuest = 64 * kMiB;

uint64_t Scaled(uint64_t bytes, double scale) {
  const auto blocks =
      std::llround(static_cast<double>(bytes) * scale / (2.0 * kMiB));
  return static_cast<uint64_t>(blocks) * 2 * kMiB;
}

// The largest scale up to the default for which the machine has the memory.
double ScaleThatFits(uint64_t host_bytes, uint64_t available_bytes) {
  constexpr double kStep = 1.0 / 256;
  double scale = kDefaultScale;
  while (scale - kStep >= kMinScale &&
         MemoryNeeded(Scaled(host_bytes, scale)) > available_bytes) {
    scale -= kStep;
  }
  return scale;
}

absl::Status CheckPolicies(const DensityOptions& options) {
  if (options.policies.empty()) {
    return absl::InvalidArgumentError(
        "policies: none given; allowed is one or more, separated by commas");
  }
  for (const std::string& policy : options.policies) {
    if (policy == kPolicyOff) continue;
    const absl::Status status =
        MakePolicy(policy, options.policy_parameters).status();
    if (absl::IsNotFound(status)) {
      const auto names = PolicyNames();
      return absl::InvalidArgumentError(absl::StrCat(
          "policies ", policy, ": there is no such policy; allowed are off, ",
          absl::StrJoin(std::vector<std::string>(names.begin(), names.end()),
                        ", ")));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const DensityOptions& options) {
  if (options.guest_bytes < kSmallestGuest) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest-memory %s: allowed, after scaling, is %s or more",
        FormatBytes(options.guest_bytes), FormatBytes(kSmallestGuest)));
  }
  if (options.footprint_bytes + options.workload_min_bytes >=
      options.guest_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "workload-min %s: allowed is less than what the footprint of %s leaves "
        "of the guest's %s",
        FormatBytes(options.workload_min_bytes),
        FormatBytes(options.footprint_bytes),
        FormatBytes(options.guest_bytes)));
  }
  if (!std::isfinite(options.settle_seconds) || options.settle_seconds < 0 ||
      options.settle_seconds > 86400) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "settle %g: allowed is 0 to 86400 seconds", options.settle_seconds));
  }
  if (options.max_guests < 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "max-guests %d: allowed is 1 or more", options.max_guests));
  }
  return absl::OkStatus();
}

// What guest number `index`'s workload grows to, where `free_bytes` are to be
// had.
uint64_t WorkloadBytes(const DensityOptions& options, int index,
                       uint64_t free_bytes) {
  if (free_bytes <= options.workload_min_bytes) return free_bytes;
  Random random(options.seed + static_cast<uint64_t>(index));
  return random.Between(options.workload_min_bytes, free_bytes);
}

// Makes the guest's kernel: blocks that stay allocated. False if there is not
// enough memory.
bool AllocateFootprint(Vcpu& vcpu, uint64_t bytes, bool touch) {
  while (bytes > 0) {
    int order = kMaxOrder.value();
    while (order > 0 && Order(order).bytes() > bytes) --order;
    const std::optional<Pfn> pfn = vcpu.Allocate(Order(order));
    if (!pfn) return false;
    if (touch) vcpu.Touch(*pfn, Order(order), /*stamp=*/0);
    bytes -= std::min(bytes, Order(order).bytes());
  }
  return true;
}

absl::StatusOr<std::unique_ptr<Guest>> BootGuest(const DensityOptions& options,
                                                 const std::string& policy,
                                                 bool touch) {
  GuestOptions guest_options;
  guest_options.memory = Guest::MemoryMap(options.guest_bytes);
  guest_options.huge_pages = options.huge_pages;
  if (policy != kPolicyOff) {
    guest_options.make_policy = [&] {
      return *MakePolicy(policy, options.policy_parameters);
    };
  }
  if (options.hypervisor == HypervisorKind::kNone) {
    guest_options.make_hypervisor = [](const GuestRam&) {
      return std::make_unique<NullHypervisor>();
    };
  }
  absl::StatusOr<std::unique_ptr<Guest>> guest = Guest::Create(guest_options);
  if (guest.ok() &&
      !AllocateFootprint((*guest)->vcpu(0), options.footprint_bytes, touch)) {
    return absl::ResourceExhaustedError("the footprint does not fit the guest");
  }
  return guest;
}

// One policy's guests, launched until one does not fit.
class PolicyRun {
 public:
  PolicyRun(const DensityOptions& options, std::string policy,
            const std::function<void(const DensityProgress&)>& progress,
            std::vector<DensitySample>& samples)
      : options_(options), progress_(progress), samples_(samples) {
    row_.policy = std::move(policy);
  }

  absl::StatusOr<DensityRow> Run() {
    while (row_.guests < options_.max_guests) {
      const absl::StatusOr<bool> fits = Launch();
      if (!fits.ok()) return fits.status();
      if (!*fits) return Finish();
    }
    row_.stopped = absl::StrCat("max-guests ", options_.max_guests);
    return Finish();
  }

 private:
  DensityRow Finish() {
    row_.seconds = Seconds();
    row_.resident_bytes = resting_bytes_;
    row_.reports = reports_;
    row_.discard_calls = discard_calls_;
    return std::move(row_);
  }

  // Runs one guest to its rest. False if it did not fit.
  absl::StatusOr<bool> Launch() {
    absl::StatusOr<std::unique_ptr<Guest>> guest =
        BootGuest(options_, row_.policy, /*touch=*/true);
    if (!guest.ok()) return guest.status();
    Guest& active = **guest;
    guests_.push_back(*std::move(guest));

    BurstWorkload workload(
        WorkloadBytes(options_, row_.guests,
                      active.allocator().FreePagesAboveLow().bytes()),
        options_.seed + static_cast<uint64_t>(row_.guests));
    const absl::StatusOr<bool> fits = RunWorkload(active, workload);
    if (!fits.ok() || !*fits) return fits;
    if (workload.corrupted()) {
      return absl::DataLossError(
          absl::StrFormat("page 0x%x of guest %d lost its contents",
                          workload.corrupted()->value(), row_.guests + 1));
    }
    const absl::StatusOr<uint64_t> resident = Settle(active);
    if (!resident.ok()) return resident.status();
    resting_bytes_ += *resident;
    if (Reporter* reporter = active.reporter()) {
      row_.reported_bytes += reporter->counters().reported_bytes;
    }
    reports_ += Reports(active);
    discard_calls_ += active.hypervisor().counters().calls;
    ++row_.guests;
    row_.launches.push_back({.workload_bytes = workload.peak_bytes(),
                             .host_peak_bytes = peak_bytes_,
                             .resident_bytes = *resident});
    return true;
  }

  absl::StatusOr<bool> RunWorkload(Guest& active, BurstWorkload& workload) {
    peak_bytes_ = 0;
    // Resident memory only grows while the workload does, so that what is
    // measured when it is largest is the most there was; in between, the nearer
    // to the limit the closer it is watched, for the real machine's sake.
    uint64_t measure_at = 0;
    bool was_growing = true;
    bool done = false;
    while (!done) {
      done = !workload.Step(active.vcpu(0)).has_value();
      const bool peaked = was_growing && !workload.growing();
      was_growing = workload.growing();
      if (!peaked && !done && workload.growing() &&
          workload.allocated_bytes() < measure_at) {
        continue;
      }
      if (!peaked && !done && !workload.growing() &&
          workload.allocated_bytes() > measure_at) {
        continue;
      }
      const absl::StatusOr<uint64_t> total = Measure(active);
      if (!total.ok()) return total.status();
      if (*total > options_.host_bytes) return false;
      if (AvailableMemory() < kMachineReserve / 2) {
        row_.stopped = absl::StrFormat(
            "the machine itself ran low on memory with %s resident",
            FormatBytes(*total));
        return false;
      }
      const uint64_t step = std::clamp<uint64_t>(
          (options_.host_bytes - *total) / 8, 4 * kMiB, 64 * kMiB);
      measure_at = workload.growing()
                       ? workload.allocated_bytes() + step
                       : workload.allocated_bytes() -
                             std::min(workload.allocated_bytes(), step);
    }
    return true;
  }

  // Waits for reporting to come to rest; what the guest then holds. At rest is
  // a guest whose idle life makes for no more reports.
  absl::StatusOr<uint64_t> Settle(Guest& active) {
    constexpr std::chrono::milliseconds kSlice(50);
    const double deadline = Seconds() + options_.settle_seconds;
    IdleWorkload idle(options_.seed + static_cast<uint64_t>(row_.guests));
    std::optional<uint64_t> reports;
    while (Seconds() < deadline) {
      if (active.WaitUntilAtRest(kSlice)) {
        const uint64_t before =
            std::exchange(reports, Reports(active)).value_or(~uint64_t{0});
        if (before == *reports || !options_.idle_activity) break;
        idle.Step(active.vcpu(0));
      }
      const absl::StatusOr<uint64_t> total = Measure(active);
      if (!total.ok()) return total;
    }
    return active.ram().ResidentBytes();
  }

  static uint64_t Reports(Guest& guest) {
    return guest.reporter() == nullptr ? 0
                                       : guest.reporter()->counters().reports;
  }

  // Resident memory of all guests, noted down.
  absl::StatusOr<uint64_t> Measure(Guest& active) {
    const absl::StatusOr<uint64_t> resident = active.ram().ResidentBytes();
    if (!resident.ok()) return resident;
    const uint64_t total = resting_bytes_ + *resident;
    peak_bytes_ = std::max(peak_bytes_, total);
    const int launched = row_.guests + 1;
    samples_.push_back({.policy = row_.policy,
                        .seconds = Seconds(),
                        .guests = launched,
                        .resident_bytes = total});
    if (progress_) {
      progress_({.policy = row_.policy,
                 .guest = launched,
                 .resident_bytes = total,
                 .host_bytes = options_.host_bytes});
    }
    return total;
  }

  double Seconds() const {
    return std::chrono::duration<double>(clock_.Now()).count();
  }

  const DensityOptions& options_;
  const std::function<void(const DensityProgress&)>& progress_;
  std::vector<DensitySample>& samples_;
  const MonotonicClock clock_;
  std::vector<std::unique_ptr<Guest>> guests_;
  DensityRow row_;
  // Of the guests that have come to rest: nothing runs in them any more.
  uint64_t resting_bytes_ = 0;
  // The most that all guests held during the launch under way.
  uint64_t peak_bytes_ = 0;
  uint64_t reports_ = 0;
  uint64_t discard_calls_ = 0;
};

// The row of an ideal in which each guest holds what it has allocated and not a
// page more.
absl::StatusOr<DensityRow> ComputeLimit(const DensityOptions& options) {
  const absl::StatusOr<std::unique_ptr<Guest>> guest =
      BootGuest(options, std::string(kPolicyOff), /*touch=*/false);
  if (!guest.ok()) return guest.status();
  PageAllocator& allocator = (*guest)->allocator();
  const uint64_t at_rest = allocator.Counts().allocated().bytes();
  const uint64_t free_bytes = allocator.FreePagesAboveLow().bytes();

  DensityRow row;
  row.policy = kPolicyLimit;
  while (row.guests < options.max_guests) {
    const uint64_t workload = WorkloadBytes(options, row.guests, free_bytes);
    const uint64_t peak = row.resident_bytes + at_rest + workload;
    if (peak > options.host_bytes) return row;
    ++row.guests;
    row.resident_bytes += at_rest;
    row.reported_bytes += workload;
    row.launches.push_back({.workload_bytes = workload,
                            .host_peak_bytes = peak,
                            .resident_bytes = at_rest});
  }
  row.stopped = absl::StrCat("max-guests ", options.max_guests);
  return row;
}

}  // namespace

absl::StatusOr<DensityOptions> ResolveDensity(const DensityOptions& options,
                                              uint64_t available_bytes) {
  DensityOptions resolved = options;
  if (!options.scale) {
    resolved.scale = ScaleThatFits(options.host_bytes, available_bytes);
  }
  const double scale = *resolved.scale;
  if (!(scale >= kMinScale && scale <= kMaxScale)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "scale %g: allowed is %g to %g", scale, kMinScale, kMaxScale));
  }
  resolved.guest_bytes = Scaled(options.guest_bytes, scale);
  resolved.host_bytes = Scaled(options.host_bytes, scale);
  resolved.footprint_bytes = Scaled(options.footprint_bytes, scale);
  resolved.workload_min_bytes = Scaled(options.workload_min_bytes, scale);
  if (absl::Status status = CheckPolicies(resolved); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckSizes(resolved); !status.ok()) return status;
  const uint64_t needed = MemoryNeeded(resolved.host_bytes);
  if (needed > available_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "scale %g: a host of %s needs %s of real memory; allowed is what this "
        "machine has available, %s",
        scale, FormatBytes(resolved.host_bytes), FormatBytes(needed),
        FormatBytes(available_bytes)));
  }
  return resolved;
}

absl::StatusOr<DensityResult> RunDensity(
    const DensityOptions& options,
    const std::function<void(const DensityProgress&)>& progress) {
  absl::StatusOr<DensityOptions> resolved =
      ResolveDensity(options, AvailableMemory());
  if (!resolved.ok()) return resolved.status();
  DensityResult result;
  result.options = *std::move(resolved);
  result.host = ReadHostInfo();
  for (const std::string& policy : result.options.policies) {
    absl::StatusOr<DensityRow> row =
        PolicyRun(result.options, policy, progress, result.samples).Run();
    if (!row.ok()) return row.status();
    result.rows.push_back(*std::move(row));
  }
  absl::StatusOr<DensityRow> limit = ComputeLimit(result.options);
  if (!limit.ok()) return limit.status();
  result.rows.push_back(*std::move(limit));
  return result;
}

}  // namespace guestmm
