#include "src/experiment/compare/compare_run.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "guestmm/frame/gfp.h"
#include "guestmm/mechanism/experiment.h"

namespace guestmm {
namespace {

// The kernel keeps one part in 32 of the guest's memory.
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

absl::Status BootGuest(Vcpu& vcpu, uint64_t guest_bytes) {
  for (uint64_t left = guest_bytes / kKernelShare; left > 0;) {
    Order order = kMaxOrder;
    while (order > Order(0) && order.bytes() > left) {
      order = Order(order.value() - 1);
    }
    const std::optional<Pfn> pfn = vcpu.Allocate(order, kGfpKernel);
    if (!pfn) {
      return absl::ResourceExhaustedError("the guest's kernel does not fit");
    }
    vcpu.Touch(*pfn, order, /*stamp=*/0);
    left -= std::min(left, order.bytes());
  }
  return absl::OkStatus();
}

PolicyParameters ParametersFor(const CompareOptions& options, Order granule) {
  PolicyParameters parameters = options.policy_parameters;
  if (!parameters.granule) parameters.granule = granule;
  return parameters;
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyFor(
    const CompareOptions& options, const CompareSetup& setup,
    const std::string& policy) {
  if (policy == kPolicyOff) return nullptr;
  return MakePolicy(policy, ParametersFor(options, setup.granule));
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

void FillRow(const PageAllocator& allocator, const HostLedger& ledger,
             const Reporter* reporter, const HoldTimes& holds,
             CompareRow& row) {
  row.refaults_1s = ledger.counters().refaults;
  row.reports = 0;
  row.failed_while_isolated = allocator.vmstat().alloc_failed_isolated;
  if (reporter == nullptr) return;
  row.reports = reporter->counters().reports;
  const LedgerCounters counters = ledger.counters();
  if (counters.needed_bytes > 0) {
    row.reported_over_needed = static_cast<double>(counters.reported_bytes) /
                               static_cast<double>(counters.needed_bytes);
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
