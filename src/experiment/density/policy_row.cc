#include "src/experiment/density/policy_row.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/machine/boot_kernel.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/mechanism/mechanisms.h"
#include "src/experiment/density/guest_draws.h"
#include "src/experiment/density/settle.h"

namespace guestmm {
namespace {

std::unique_ptr<DensityTime> MakeTime(const DensitySetup& setup) {
  if (setup.real_time) return std::make_unique<RealDensityTime>();
  return std::make_unique<VirtualDensityTime>(setup.options.seed, CostModel());
}

// Names the option, if `status` is about the VMM at `socket`.
absl::Status NameVmm(const absl::Status& status, const std::string& socket) {
  if (socket.empty() || !absl::IsUnavailable(status) ||
      !absl::StrContains(status.message(), socket)) {
    return status;
  }
  return absl::UnavailableError(absl::StrCat(
      "--vmm=", socket,
      ": must be the socket of a VMM (guestmm vmm): ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Guest>> BootGuest(const DensitySetup& setup,
                                                 const MechanismSpec& mechanism,
                                                 DensityTime& time) {
  const DensityOptions& options = setup.options;
  GuestOptions guest_options;
  guest_options.memory = MemoryMap::Pc(setup.guest_bytes);
  guest_options.huge_pages = options.huge_pages;
  guest_options.kernel = options.kernel;
  guest_options.vmm_socket = options.vmm_socket;
  if (!options.vmm_socket.empty()) {
    guest_options.memory_source = MemorySource::kSharedMemfd;
  }
  // One range a call, so that discard_calls is the same on every kernel.
  guest_options.discard.ranges_per_call = RangesPerCall::kOne;
  absl::StatusOr<std::unique_ptr<Mechanism>> made =
      MakeMechanism(MechanismOption::kPolicies, mechanism,
                    {.policy = PolicyContext(setup.granule),
                     .defaults = options.policy_parameters});
  if (!made.ok()) return made.status();
  guest_options.make_mechanism = [&made] { return *std::move(made); };
  if (options.hypervisor == HypervisorKind::kNone) {
    guest_options.make_hypervisor = [](const GuestRam&) {
      return std::make_unique<NullHypervisor>();
    };
  }
  time.Place(guest_options);
  absl::StatusOr<std::unique_ptr<Guest>> guest = Guest::Create(guest_options);
  if (!guest.ok()) return NameVmm(guest.status(), options.vmm_socket);
  time.BeginSteps();
  absl::Status status = BootKernel((*guest)->vcpu(0), setup.footprint_bytes);
  if (!status.ok()) return status;
  time.Pass(Nanoseconds(0));
  return guest;
}

PolicyRow::PolicyRow(
    const DensitySetup& setup, const MechanismSpec& mechanism,
    const std::function<void(const DensityProgress&)>& progress,
    const std::function<bool()>& stopped, std::vector<DensitySample>& samples)
    : setup_(setup),
      mechanism_(mechanism),
      time_(MakeTime(setup)),
      meter_(setup, mechanism.text(MechanismOption::kPolicies), *time_,
             progress, stopped, samples) {
  row_.policy = mechanism.text(MechanismOption::kPolicies);
}

absl::StatusOr<DensityRow> PolicyRow::Run() {
  while (row_.guests < setup_.options.max_guests) {
    const absl::StatusOr<bool> fits = Launch();
    if (!fits.ok()) return fits.status();
    if (!*fits) return Finish();
  }
  row_.stopped = absl::StrCat("max-guests ", setup_.options.max_guests);
  return Finish();
}

absl::StatusOr<bool> PolicyRow::Launch() {
  absl::StatusOr<std::unique_ptr<Guest>> booted =
      BootGuest(setup_, mechanism_, *time_);
  if (!booted.ok()) return booted.status();
  Guest& guest = **booted;
  guests_.push_back(*std::move(booted));
  absl::Status status = meter_.BeginLaunch(guest);
  if (!status.ok()) return status;

  const GuestDraws draws(setup_, row_.guests);
  BurstWorkload workload(
      draws.WorkloadBytes(setup_,
                          guest.allocator().FreePagesAboveLow().bytes()),
      draws.workload);
  const absl::StatusOr<bool> fits = RunWorkload(guest, workload);
  if (!fits.ok() || !*fits) return fits;
  if (workload.corrupted()) {
    return absl::DataLossError(
        absl::StrFormat("page 0x%x of guest %d lost its contents",
                        workload.corrupted()->value(), row_.guests + 1));
  }
  const uint64_t peak = meter_.peak_bytes();
  status = Settle(setup_, guest, *time_, meter_, draws.idle);
  if (!status.ok()) return status;
  const absl::StatusOr<uint64_t> resident = guest.ram().ResidentBytes();
  if (!resident.ok()) return resident.status();
  meter_.EndLaunch();
  ++row_.guests;
  row_.launches.push_back({.workload_bytes = workload.peak_bytes(),
                           .host_peak_bytes = peak,
                           .resident_bytes = *resident});
  return true;
}

absl::StatusOr<bool> PolicyRow::RunWorkload(Guest& guest,
                                            BurstWorkload& workload) {
  // Resident memory only grows until the workload has all it wants, so the
  // measurement taken then is the largest. The earlier ones come more often as
  // the limit is nearer, to protect the real machine. From there to the
  // workload's end there are none: one takes longer than a free, and in real
  // time would set the pace.
  uint64_t measure_at = 0;
  bool more = true;
  while (more) {
    const bool was_growing = workload.growing();
    more = workload.Step(guest.vcpu(0)).has_value();
    time_->Pass(Nanoseconds(0));
    const bool peaked = was_growing && !workload.growing();
    const bool due =
        workload.growing() && workload.allocated_bytes() >= measure_at;
    if (!peaked && !due) continue;
    const absl::StatusOr<uint64_t> total = meter_.Measure();
    if (!total.ok()) return total.status();
    if (*total > setup_.host_bytes) return false;
    const absl::StatusOr<uint64_t> allowed = AllowedMemory(AvailableMemory());
    if (!allowed.ok()) return allowed.status();
    if (*allowed < kMachineReserve / 2) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s: this machine itself ran low on memory, with %s of %s resident",
          row_.policy, FormatBytes(*total), FormatBytes(setup_.host_bytes)));
    }
    measure_at = workload.allocated_bytes() +
                 std::clamp<uint64_t>((setup_.host_bytes - *total) / 4,
                                      16 * kMiB, 64 * kMiB);
  }
  return true;
}

absl::StatusOr<DensityRow> PolicyRow::Finish() {
  const absl::StatusOr<uint64_t> resident = meter_.MeasureSettled();
  if (!resident.ok()) return resident.status();
  row_.resident_bytes = *resident;
  row_.seconds = ToSeconds(time_->Now());
  row_.reports = 0;
  const bool in_process = setup_.options.vmm_socket.empty();
  if (in_process) row_.discard_calls = row_.discarded_bytes = 0;
  for (int i = 0; i < row_.guests; ++i) {
    Guest& guest = *guests_[static_cast<size_t>(i)];
    if (in_process) {
      const DiscardCounters discards = guest.hypervisor().counters();
      *row_.discard_calls += discards.calls;
      *row_.discarded_bytes += discards.bytes;
    }
    const MechanismCounters counters = guest.mechanism()->counters();
    *row_.reports += counters.requests;
    row_.reported_bytes += counters.bytes;
  }
  return std::move(row_);
}

}  // namespace guestmm
