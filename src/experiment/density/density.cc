#include "guestmm/experiment/density/density.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/workload/burst_workload.h"
#include "guestmm/workload/idle_workload.h"

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

// `options` as given, before scaling; `scale` is within its bounds.
absl::Status CheckSizes(const DensityOptions& options, double scale) {
  const auto check = [](const char* name, uint64_t bytes, uint64_t low,
                        uint64_t high) {
    if (low <= bytes && bytes <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s %s: allowed is %s to %s", name, FormatBytes(bytes),
                        FormatBytes(low), FormatBytes(high)));
  };
  const auto smallest_guest = static_cast<uint64_t>(
      std::ceil(static_cast<double>(kSmallestGuest) / scale));
  absl::Status status = check("guest-memory", options.guest_bytes,
                              smallest_guest, kMaxDensityBytes);
  if (!status.ok()) return status;
  status = check("host-memory", options.host_bytes, options.guest_bytes,
                 kMaxDensityBytes);
  if (!status.ok()) return status;
  status = check("footprint", options.footprint_bytes, 0,
                 options.guest_bytes / 4 * 3);
  if (!status.ok()) return status;
  // The rest is for watermarks and metadata of the guest's own.
  return check("workload-min", options.workload_min_bytes, 0,
               (options.guest_bytes - options.footprint_bytes) / 16 * 15);
}

absl::Status CheckLimits(const DensityOptions& options) {
  if (!std::isfinite(options.settle_seconds) || options.settle_seconds < 0 ||
      options.settle_seconds > 86400) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "settle %g: allowed is 0 to 86400 seconds", options.settle_seconds));
  }
  if (options.max_guests < 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "max-guests %d: allowed is 1 or more", options.max_guests));
  }
  if (!options.vmm_socket.empty() &&
      options.hypervisor != HypervisorKind::kMadvise) {
    return absl::InvalidArgumentError(
        "hypervisor none: with vmm, which has the hypervisor, allowed is "
        "madvise");
  }
  return absl::OkStatus();
}

// Draws for guest number `index`, the same whatever the policy.
struct GuestDraws {
  GuestDraws(const DensityOptions& options, int index) {
    Random seeds(options.seed);
    for (int i = 0; i < index; ++i) seeds.Next();
    Random random = seeds.Fork();
    size = random.Next();
    workload = random.Next();
    idle = random.Next();
  }

  // What the workload grows to, where `free_bytes` are to be had.
  uint64_t WorkloadBytes(const DensityOptions& options,
                         uint64_t free_bytes) const {
    if (free_bytes <= options.workload_min_bytes) return free_bytes;
    return Random(size).Between(options.workload_min_bytes, free_bytes);
  }

  uint64_t size;
  // Seeds.
  uint64_t workload;
  uint64_t idle;
};

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

// What the host maps at a time behind a guest's RAM, as far as it can.
Order HostGranule(HugePages huge_pages) {
  if (huge_pages == HugePages::kForbid) return Order(0);
  const std::string thp = ReadHostInfo().thp;
  const bool huge =
      thp == "always" || (thp == "madvise" && huge_pages == HugePages::kAdvise);
  return huge ? kPageblockOrder : Order(0);
}

// Null for off.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyFor(
    const DensityOptions& options, const std::string& policy) {
  if (policy == kPolicyOff) return nullptr;
  PolicyParameters parameters = options.policy_parameters;
  if (!parameters.granule) {
    parameters.granule = HostGranule(options.huge_pages);
  }
  return MakePolicy(policy, parameters);
}

absl::StatusOr<std::unique_ptr<Guest>> BootGuest(const DensityOptions& options,
                                                 const std::string& policy,
                                                 bool touch) {
  absl::StatusOr<std::unique_ptr<ReportingPolicy>> reporting =
      PolicyFor(options, policy);
  if (!reporting.ok()) return reporting.status();
  GuestOptions guest_options;
  guest_options.memory = MemoryMap::Pc(options.guest_bytes);
  guest_options.huge_pages = options.huge_pages;
  guest_options.vmm_socket = options.vmm_socket;
  if (!options.vmm_socket.empty()) {
    guest_options.memory_source = MemorySource::kSharedMemfd;
  }
  // So that discard_calls are the same on every kernel.
  guest_options.discard.ranges_per_call = RangesPerCall::kOne;
  if (*reporting != nullptr) {
    guest_options.make_policy = [&] { return *std::move(reporting); };
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
  absl::StatusOr<DensityRow> Finish() {
    if (absl::Status status = MeasureResting(); !status.ok()) return status;
    row_.seconds = Seconds();
    row_.resident_bytes = resting_bytes_;
    row_.reports = 0;
    const bool is_here = options_.vmm_socket.empty();
    if (is_here) row_.discard_calls = row_.discarded_bytes = 0;
    for (int i = 0; i < row_.guests; ++i) {
      Guest& guest = *guests_[static_cast<size_t>(i)];
      if (is_here) {
        const DiscardCounters discards = guest.hypervisor().counters();
        *row_.discard_calls += discards.calls;
        *row_.discarded_bytes += discards.bytes;
      }
      if (guest.reporter() == nullptr) continue;
      *row_.reports += guest.reporter()->counters().reports;
      row_.reported_bytes += guest.reporter()->counters().reported_bytes;
    }
    return std::move(row_);
  }

  // What the guests that fit hold now. A guest's reporter may go on after its
  // turn; it can only hold less, since its workload has ended.
  absl::Status MeasureResting() {
    resting_bytes_ = 0;
    for (int i = 0; i < row_.guests; ++i) {
      const absl::StatusOr<uint64_t> resident =
          guests_[static_cast<size_t>(i)]->ram().ResidentBytes();
      if (!resident.ok()) return resident.status();
      resting_bytes_ += *resident;
    }
    return absl::OkStatus();
  }

  // Runs one guest to its rest. False if it did not fit.
  absl::StatusOr<bool> Launch() {
    if (absl::Status status = MeasureResting(); !status.ok()) return status;
    absl::StatusOr<std::unique_ptr<Guest>> guest =
        BootGuest(options_, row_.policy, /*touch=*/true);
    if (!guest.ok()) return guest.status();
    Guest& active = **guest;
    guests_.push_back(*std::move(guest));

    const GuestDraws draws(options_, row_.guests);
    BurstWorkload workload(
        draws.WorkloadBytes(options_,
                            active.allocator().FreePagesAboveLow().bytes()),
        draws.workload);
    const absl::StatusOr<bool> fits = RunWorkload(active, workload);
    if (!fits.ok() || !*fits) return fits;
    if (workload.corrupted()) {
      return absl::DataLossError(
          absl::StrFormat("page 0x%x of guest %d lost its contents",
                          workload.corrupted()->value(), row_.guests + 1));
    }
    const uint64_t peak = peak_bytes_;
    const absl::StatusOr<uint64_t> resident = Settle(active, draws.idle);
    if (!resident.ok()) return resident.status();
    ++row_.guests;
    row_.launches.push_back({.workload_bytes = workload.peak_bytes(),
                             .host_peak_bytes = peak,
                             .resident_bytes = *resident});
    return true;
  }

  // False if the guest does not fit.
  absl::StatusOr<bool> RunWorkload(Guest& active, BurstWorkload& workload) {
    peak_bytes_ = 0;
    // Resident memory only grows until the workload has all it wants, so that
    // what is measured then is the most there was. On the way, the nearer to
    // the limit the closer it is watched, for the real machine's sake. After
    // that it is left alone: a look takes longer than a free, and would set the
    // pace.
    uint64_t measure_at = 0;
    bool more = true;
    while (more) {
      const bool was_growing = workload.growing();
      more = workload.Step(active.vcpu(0)).has_value();
      const bool peaked = was_growing && !workload.growing();
      if (!peaked &&
          !(workload.growing() && workload.allocated_bytes() >= measure_at)) {
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
      measure_at = workload.allocated_bytes() +
                   std::clamp<uint64_t>((options_.host_bytes - *total) / 8,
                                        4 * kMiB, 64 * kMiB);
    }
    return true;
  }

  // Waits until reporting is at rest, or gives back next to nothing
  // (DensityOptions); what the guest then holds.
  absl::StatusOr<uint64_t> Settle(Guest& active, uint64_t idle_seed) {
    constexpr std::chrono::milliseconds kPause(100);
    const Reporter* const reporter = active.reporter();
    if (reporter == nullptr) return active.ram().ResidentBytes();
    const uint64_t little = options_.guest_bytes / 100;
    const double patience = ToSeconds(reporter->policy().delay()) + 1;
    const double deadline = Seconds() + options_.settle_seconds;
    const uint64_t reported_before = reporter->counters().reported_bytes;
    IdleWorkload idle(idle_seed);
    uint64_t reports_before_step = ~uint64_t{0};
    uint64_t lowest = ~uint64_t{0};
    double until = deadline;
    while (Seconds() < until) {
      const bool at_rest = active.WaitUntilAtRest(kPause);
      const ReporterCounters counters = reporter->counters();
      if (at_rest && (counters.reports == reports_before_step ||
                      !options_.idle_activity)) {
        break;
      }
      reports_before_step = counters.reports;
      if (options_.idle_activity) idle.Step(active.vcpu(0));
      if (at_rest) timer_.WaitUntil([] { return false; }, kPause);
      const absl::StatusOr<uint64_t> total = Measure(active);
      if (!total.ok()) return total;
      const bool fell = *total + little <= lowest;
      if (fell) lowest = *total;
      // Until the policy has begun, however long it waits, nothing can fall.
      const bool begun = counters.reported_bytes - reported_before >= little;
      if (begun && (fell || until == deadline)) {
        until = std::min(deadline, Seconds() + patience);
      }
    }
    return active.ram().ResidentBytes();
  }

  // Resident memory of all guests, noted down.
  absl::StatusOr<uint64_t> Measure(Guest& active) {
    const absl::StatusOr<uint64_t> resident = active.ram().ResidentBytes();
    if (!resident.ok()) return resident;
    uint64_t total = resting_bytes_ + *resident;
    if (total > options_.host_bytes) {
      // The others may have handed more back since they were looked at.
      absl::Status status = MeasureResting();
      if (!status.ok()) return status;
      total = resting_bytes_ + *resident;
    }
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

  double Seconds() const { return ToSeconds(clock_.Now()); }

  const DensityOptions& options_;
  const std::function<void(const DensityProgress&)>& progress_;
  std::vector<DensitySample>& samples_;
  const MonotonicClock clock_;
  std::vector<std::unique_ptr<Guest>> guests_;
  DensityRow row_;
  // Passes the time between the steps of idle guests.
  ThreadWorkqueue timer_;
  // Of the guests that fit, when last looked at.
  uint64_t resting_bytes_ = 0;
  // The most that all guests held during the launch under way.
  uint64_t peak_bytes_ = 0;
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
  row.discarded_bytes = 0;
  while (row.guests < options.max_guests) {
    const uint64_t workload =
        GuestDraws(options, row.guests).WorkloadBytes(options, free_bytes);
    const uint64_t peak = row.resident_bytes + at_rest + workload;
    if (peak > options.host_bytes) return row;
    ++row.guests;
    row.resident_bytes += at_rest;
    row.reported_bytes += workload;
    row.discarded_bytes = row.reported_bytes;
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
  const double scale = options.scale.value_or(
      ScaleThatFits(options.host_bytes, available_bytes));
  if (!(scale >= kMinScale && scale <= kMaxScale)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "scale %g: allowed is %g to %g", scale, kMinScale, kMaxScale));
  }
  if (options.policies.empty()) {
    return absl::InvalidArgumentError(
        "policies: none given; allowed is one or more, separated by commas");
  }
  absl::Status status =
      CheckPolicies(options.policies, options.policy_parameters);
  if (status.ok()) status = CheckSizes(options, scale);
  if (status.ok()) status = CheckLimits(options);
  if (!status.ok()) return status;

  DensityOptions resolved = options;
  resolved.scale = scale;
  resolved.guest_bytes = Scaled(options.guest_bytes, scale);
  resolved.host_bytes = Scaled(options.host_bytes, scale);
  resolved.footprint_bytes = Scaled(options.footprint_bytes, scale);
  resolved.workload_min_bytes = Scaled(options.workload_min_bytes, scale);
  const uint64_t needed = MemoryNeeded(resolved.host_bytes);
  if (needed > available_bytes) {
    const std::string culprit =
        options.host_bytes == DensityOptions().host_bytes
            ? absl::StrFormat("scale %g", scale)
            : absl::StrCat("host-memory ", FormatBytes(options.host_bytes));
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: a host of %s needs %s of real memory; allowed is what this "
        "machine has available, %s",
        culprit, FormatBytes(resolved.host_bytes), FormatBytes(needed),
        FormatBytes(available_bytes)));
  }
  return resolved;
}

absl::StatusOr<DensityResult> RunDensity(
    const DensityOptions& resolved,
    const std::function<void(const DensityProgress&)>& progress) {
  GUESTMM_CHECK(resolved.scale.has_value()) << "options were not resolved";
  DensityResult result;
  result.options = resolved;
  result.host = ReadHostInfo();
  for (const std::string& policy : resolved.policies) {
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
