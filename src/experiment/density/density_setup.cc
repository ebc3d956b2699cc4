#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/option_error.h"
#include "guestmm/buddy/kernel_version_field.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/mechanisms.h"

namespace guestmm {
namespace {

// The cover letter's sizes.
constexpr uint64_t kGuestBytes = 5 * kGiB;
constexpr uint64_t kHostBytes = 15 * kGiB;

// A smaller guest has too little memory above its watermarks for a workload.
constexpr uint64_t kSmallestGuest = 64 * kMiB;

// Multiples of 2 MiB.
uint64_t Scaled(uint64_t bytes, double scale) {
  constexpr auto kBlock = static_cast<double>(kPageblockOrder.bytes());
  const auto blocks = std::llround(static_cast<double>(bytes) * scale / kBlock);
  return static_cast<uint64_t>(blocks) * kPageblockOrder.bytes();
}

// The unit in which the host maps a guest's RAM, as far as this machine can.
Order HostGranule(HugePages huge_pages) {
  if (huge_pages == HugePages::kForbid) return Order(0);
  const std::string thp = ReadHostInfo().thp;
  const bool huge =
      thp == "always" || (thp == "madvise" && huge_pages == HugePages::kAdvise);
  return huge ? kPageblockOrder : Order(0);
}

absl::Status CheckSize(std::string_view option, uint64_t bytes, uint64_t low,
                       uint64_t high) {
  const FieldKind kind = FieldKind::Bytes(low, high);
  if (kind.IsValid(bytes)) return absl::OkStatus();
  return OptionError(option, kind.Format(bytes), kind.Rule());
}

absl::Status CheckSizes(const DensitySetup& setup) {
  if (setup.guest_bytes % kPageSize != 0) {
    return OptionError("guest-memory", absl::StrCat(setup.guest_bytes),
                       "must be whole pages of 4 KiB");
  }
  absl::Status status = CheckSize("host-memory", setup.host_bytes,
                                  setup.guest_bytes, kMaxDensityBytes);
  if (!status.ok()) return status;
  status = CheckSize("footprint", setup.footprint_bytes, 0,
                     setup.guest_bytes / 4 * 3);
  if (!status.ok()) return status;
  // The rest is for watermarks and metadata of the guest's own.
  return CheckSize("workload-min", setup.workload_min_bytes, 0,
                   (setup.guest_bytes - setup.footprint_bytes) / 16 * 15);
}

// Refuses what a VMM does not allow.
absl::Status CheckWithVmm(const DensityOptions& options) {
  if (options.vmm_socket.empty()) return absl::OkStatus();
  if (!options.real_time.value_or(true)) {
    return OptionError("real-time", "off", "must be on with --vmm");
  }
  if (options.hypervisor != HypervisorKind::kMadvise) {
    return OptionError("hypervisor",
                       DensityFields().Format(options, "hypervisor"),
                       "must be madvise with --vmm: the VMM has the "
                       "hypervisor");
  }
  return absl::OkStatus();
}

// Turns mechanisms into policies.
absl::Status ResolvePolicies(DensitySetup& setup) {
  DensityOptions& options = setup.options;
  if (options.policies.empty() && options.mechanisms.empty()) {
    options.policies = {"off", "v12", "linux", "adaptive"};
  }
  const absl::StatusOr<MechanismList> list =
      ParseMechanisms(options.policies, std::exchange(options.mechanisms, {}),
                      kMachineMechanisms);
  if (!list.ok()) return list.status();
  options.policies = list->policies();
  return CheckMechanisms(*list, kMachineMechanisms,
                         {.policy = PolicyContext(setup.granule),
                          .defaults = options.policy_parameters});
}

absl::Status CheckMemory(const DensitySetup& setup,
                         const absl::StatusOr<uint64_t>& available) {
  const uint64_t needed =
      setup.host_bytes + setup.host_bytes / 32 + kMachineReserve;
  const absl::StatusOr<uint64_t> allowed = AllowedMemory(available);
  if (!allowed.ok()) return allowed.status();
  if (needed <= *allowed) return absl::OkStatus();
  const char* const option =
      setup.options.host_bytes.has_value() ? "host-memory" : "scale";
  return OptionError(
      option, DensityFields().Format(setup.options, option),
      absl::StrFormat("must be less: a host of %s needs %s of real memory, and "
                      "this machine has %s available",
                      FormatBytes(setup.host_bytes), FormatBytes(needed),
                      FormatBytes(*allowed)));
}

}  // namespace

const Fields<DensityOptions>& DensityFields() {
  using Options = DensityOptions;
  const FieldKind bytes = FieldKind::Bytes(0, kMaxDensityBytes);
  static const Fields<Options> fields = {
      {"scale", &Options::scale, FieldKind::Number(kMinScale, kMaxScale),
       "Multiplies the cover letter's sizes, guests of 5 GiB on a host of 15 "
       "GiB, where they are not given"},
      {"guest-memory", &Options::guest_bytes,
       FieldKind::Bytes(kSmallestGuest, kMaxDensityBytes),
       "Memory of a guest [512MiB]"},
      {"host-memory", &Options::host_bytes, bytes,
       "Memory of the host [1536MiB]"},
      {"footprint", &Options::footprint_bytes, bytes,
       "Memory that a guest's kernel keeps in use [1/20 of the guest's]"},
      {"workload-min", &Options::workload_min_bytes, bytes,
       "Memory that a workload touches, at least [4/5 of the guest's]"},
      {"seed", &Options::seed, FieldKind::Count(),
       "Seed of all sizes and orders"},
      {"kernel", &Options::kernel, KernelVersionKind(),
       "Linux version whose page allocator the guests have: its per-CPU lists "
       "and the order of its free lists; v12 was posted for 5.3"},
      {"hypervisor", &Options::hypervisor,
       FieldKind::Choice({"madvise", "none"}),
       "madvise: discards; none: acknowledges and keeps everything"},
      {"huge-pages", &Options::huge_pages,
       FieldKind::Choice({"host", "advise", "forbid"}),
       "Transparent huge pages behind guest RAM: by the host's setting, "
       "advised, or forbidden"},
      {"real-time", &Options::real_time, FieldKind::Switch(),
       "Run guests and devices on threads, in real time; results then vary "
       "[off; with --vmm on]"},
      {"vmm", &Options::vmm_socket, FieldKind::Path("a socket"),
       "Socket of a VMM (guestmm vmm) that has the guests' balloon devices; "
       "guest memory is in memfds, time is real [none]"},
      {"idle-activity", &Options::idle_activity, FieldKind::Switch(),
       "Whether a guest whose workload has ended still takes and frees a "
       "little memory until it has settled, as an idle guest does; v12 starts "
       "a pass only on a free"},
      {"settle", &Options::settle_seconds,
       FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(24)),
       "Time that a guest settles before the next is launched; with "
       "--real-time, at most"},
      {"max-guests", &Options::max_guests, FieldKind::Count(1, 100'000),
       "Guests at which a policy's row ends"},
  };
  return fields;
}

absl::StatusOr<DensitySetup> ResolveDensity(
    const DensityOptions& options, const absl::StatusOr<uint64_t>& available) {
  absl::Status status = DensityFields().Check(options);
  if (!status.ok()) return status;
  DensitySetup setup;
  setup.options = options;
  setup.granule = HostGranule(options.huge_pages);
  status = ResolvePolicies(setup);
  if (!status.ok()) return status;

  setup.real_time = options.real_time.value_or(!options.vmm_socket.empty());
  setup.guest_bytes =
      options.guest_bytes.value_or(Scaled(kGuestBytes, options.scale));
  setup.host_bytes =
      options.host_bytes.value_or(Scaled(kHostBytes, options.scale));
  setup.footprint_bytes =
      options.footprint_bytes.value_or(Scaled(setup.guest_bytes, 1.0 / 20));
  setup.workload_min_bytes =
      options.workload_min_bytes.value_or(Scaled(setup.guest_bytes, 4.0 / 5));
  status = CheckSizes(setup);
  if (status.ok()) status = CheckWithVmm(options);
  if (status.ok()) status = CheckMemory(setup, available);
  if (!status.ok()) return status;
  return setup;
}

}  // namespace guestmm
