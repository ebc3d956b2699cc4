#include "src/experiment/compare/compare_run.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "guestmm/machine/boot_kernel.h"
#include "guestmm/mechanism/mechanisms.h"

namespace guestmm {
namespace {

// The guest's kernel takes 1/32 of its memory.
constexpr uint64_t kKernelShare = 32;

// The time from `from` until `percent` of what was discarded after it was;
// unset if nothing was.
std::optional<double> TimeTo(uint64_t percent, Nanoseconds from,
                             std::span<const DiscardedUntil> discards) {
  const auto first = std::upper_bound(
      discards.begin(), discards.end(), from,
      [](Nanoseconds when, const DiscardedUntil& d) { return when < d.when; });
  if (first == discards.end()) return std::nullopt;
  const uint64_t before =
      first == discards.begin() ? 0 : std::prev(first)->bytes;
  const uint64_t came = discards.back().bytes - before;
  for (auto at = first; at != discards.end(); ++at) {
    // Rounded down: the last bytes of a percent are not waited for.
    if ((at->bytes - before) >= came / 100 * percent) {
      return ToSeconds(at->when - from);
    }
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<GuestLoad> Boot(Machine& machine, const CompareSetup& setup,
                               Random& random) {
  const absl::Status status =
      BootKernel(machine.vcpu(0), setup.guest_bytes / kKernelShare);
  if (!status.ok()) return status;
  BootedGuest world{.allocator = machine.allocator(),
                    .vcpus = machine.all_vcpus(),
                    .guest_bytes = setup.guest_bytes,
                    .duration = setup.duration,
                    .random = random.Fork()};
  return setup.recipe->make(world);
}

absl::Status StartMechanism(Machine& machine, const CompareOptions& options,
                            const CompareSetup& setup,
                            const MechanismSpec& mechanism) {
  absl::StatusOr<std::unique_ptr<Mechanism>> made =
      MakeMechanism(MechanismOption::kPolicies, mechanism,
                    {.policy = PolicyContext(setup.granule),
                     .defaults = options.policy_parameters});
  if (!made.ok()) return made.status();
  return machine.StartMechanism(*std::move(made));
}

void FillWork(const WorkMeter& meter, CompareRow& row) {
  row.work = meter.work();
  row.duration_seconds = meter.seconds();
}

void FillTimes(Nanoseconds from, std::span<const DiscardedUntil> discards,
               CompareRow& row) {
  row.time_to_50_s = TimeTo(50, from, discards);
  row.time_to_90_s = TimeTo(90, from, discards);
  row.time_to_99_s = TimeTo(99, from, discards);
}

void FillShares(const CompareOptions& options, const PageAllocator& allocator,
                ResidentPages resident, CompareRow& row) {
  row.host_share_of_free = CountFree(allocator, resident).share();
  row.host_share_of_reportable =
      CountReportable(allocator, resident, *options.reportable_order).share();
}

void FillCounters(Machine& machine, CompareRow& row) {
  const MachineCounters counters = machine.counters();
  const LedgerCounters pages = machine.ledger()->counters();
  const HoldTimes& holds = counters.holds;
  row.kicks = counters.kicks;
  row.discard_calls = counters.discard_calls;
  row.refaults_1s = pages.refaults;
  row.failed_while_isolated =
      machine.allocator().vmstat().alloc_failed_isolated;
  row.reports = machine.mechanism()->counters().requests;
  if (pages.needed_bytes > 0) {
    row.reported_over_needed = static_cast<double>(pages.reported_bytes) /
                               static_cast<double>(pages.needed_bytes);
  }
  if (holds.count > 0) {
    row.lock_max_us = static_cast<double>(holds.max) / 1000;
    row.lock_mean_us = static_cast<double>(holds.sum) / 1000 /
                       static_cast<double>(holds.count);
  }
}

double GibMinutes(double page_microseconds) {
  constexpr uint64_t kPagesPerGib = kGiB / kPageSize;
  return page_microseconds / static_cast<double>(kPagesPerGib) / 60e6;
}

}  // namespace guestmm
