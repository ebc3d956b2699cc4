#include "src/experiment/density/density_setup.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/option_error.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/experiment.h"

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
  if (low <= bytes && bytes <= high) return absl::OkStatus();
  return OptionError(
      option, FormatBytes(bytes),
      absl::StrCat("must be ", FormatBytes(low), " to ", FormatBytes(high)));
}

absl::Status CheckSizes(const DensitySetup& setup) {
  absl::Status status = CheckSize("guest-memory", setup.guest_bytes,
                                  kSmallestGuest, kMaxDensityBytes);
  if (!status.ok()) return status;
  if (setup.guest_bytes % kPageSize != 0) {
    return OptionError("guest-memory", absl::StrCat(setup.guest_bytes),
                       "must be whole pages of 4 KiB");
  }
  status = CheckSize("host-memory", setup.host_bytes, setup.guest_bytes,
                     kMaxDensityBytes);
  if (!status.ok()) return status;
  status = CheckSize("footprint", setup.footprint_bytes, 0,
                     setup.guest_bytes / 4 * 3);
  if (!status.ok()) return status;
  // The rest is for watermarks and metadata of the guest's own.
  return CheckSize("workload-min", setup.workload_min_bytes, 0,
                   (setup.guest_bytes - setup.footprint_bytes) / 16 * 15);
}

absl::Status CheckLimits(const DensityOptions& options) {
  if (!std::isfinite(options.settle_seconds) || options.settle_seconds < 0 ||
      options.settle_seconds > 86400) {
    return OptionError("settle", absl::StrFormat("%g", options.settle_seconds),
                       "must be 0 to 86400 seconds");
  }
  if (options.max_guests < 1) {
    return OptionError("max-guests", absl::StrCat(options.max_guests),
                       "must be 1 or more");
  }
  if (!options.vmm_socket.empty() &&
      options.hypervisor != HypervisorKind::kMadvise) {
    return OptionError("hypervisor", "none",
                       "must be madvise with --vmm: the VMM has the "
                       "hypervisor");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const DensitySetup& setup, uint64_t available_bytes) {
  const uint64_t needed =
      setup.host_bytes + setup.host_bytes / 32 + kMachineReserve;
  if (needed <= available_bytes) return absl::OkStatus();
  const bool given = setup.options.host_bytes.has_value();
  return OptionError(
      given ? "host-memory" : "scale",
      given ? FormatBytes(setup.host_bytes)
            : absl::StrFormat("%g", setup.options.scale),
      absl::StrFormat("must be less: a host of %s needs %s of real memory, and "
                      "this machine has %s available",
                      FormatBytes(setup.host_bytes), FormatBytes(needed),
                      FormatBytes(available_bytes)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyFor(
    const DensitySetup& setup, const std::string& policy) {
  if (policy == kPolicyOff) return nullptr;
  const absl::StatusOr<PolicySpec> spec =
      ParsePolicy(policy, setup.options.policy_parameters);
  if (!spec.ok()) return spec.status();
  return MakePolicy(*spec, PolicyContext(setup.granule));
}

absl::StatusOr<DensitySetup> ResolveDensity(const DensityOptions& options,
                                            uint64_t available_bytes) {
  if (!(options.scale >= kMinScale && options.scale <= kMaxScale)) {
    return OptionError(
        "scale", absl::StrFormat("%g", options.scale),
        absl::StrFormat("must be %g to %g", kMinScale, kMaxScale));
  }
  if (options.policies.empty()) {
    return OptionError("policies", "", "must be one or more names");
  }
  absl::Status status =
      CheckPolicies(options.policies, options.policy_parameters,
                    PolicyContext(HostGranule(options.huge_pages)));
  if (!status.ok()) return status;

  DensitySetup setup;
  setup.options = options;
  setup.granule = HostGranule(options.huge_pages);
  setup.options.real_time |= !options.vmm_socket.empty();
  setup.guest_bytes =
      options.guest_bytes.value_or(Scaled(kGuestBytes, options.scale));
  setup.host_bytes =
      options.host_bytes.value_or(Scaled(kHostBytes, options.scale));
  setup.footprint_bytes =
      options.footprint_bytes.value_or(Scaled(setup.guest_bytes, 1.0 / 20));
  setup.workload_min_bytes =
      options.workload_min_bytes.value_or(Scaled(setup.guest_bytes, 4.0 / 5));
  status = CheckSizes(setup);
  if (status.ok()) status = CheckLimits(options);
  if (status.ok()) status = CheckMemory(setup, available_bytes);
  if (!status.ok()) return status;
  return setup;
}

}  // namespace guestmm
