#include "guestmm/experiment/density/density.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "src/experiment/density/density_time.h"
#include "src/experiment/density/guest_draws.h"
#include "src/experiment/density/policy_row.h"

namespace guestmm {
namespace {

// The row of an ideal in which each guest holds what it has allocated and not a
// page more.
absl::StatusOr<DensityRow> ComputeLimit(const DensitySetup& setup) {
  RealDensityTime time;
  const absl::StatusOr<std::unique_ptr<Guest>> guest =
      BootGuest(setup, {.name = std::string(kMechanismOff)}, time);
  if (!guest.ok()) return guest.status();
  PageAllocator& allocator = (*guest)->allocator();
  const uint64_t idle_bytes = allocator.Counts().allocated().bytes();
  const uint64_t free_bytes = allocator.FreePagesAboveLow().bytes();

  DensityRow row;
  row.policy = kMechanismLimit;
  row.discarded_bytes = 0;
  while (row.guests < setup.options.max_guests) {
    const uint64_t workload =
        GuestDraws(setup, row.guests).WorkloadBytes(setup, free_bytes);
    const uint64_t peak = row.resident_bytes + idle_bytes + workload;
    if (peak > setup.host_bytes) return row;
    ++row.guests;
    row.resident_bytes += idle_bytes;
    row.reported_bytes += workload;
    row.discarded_bytes = row.reported_bytes;
    row.launches.push_back({.workload_bytes = workload,
                            .host_peak_bytes = peak,
                            .resident_bytes = idle_bytes});
  }
  row.stopped = absl::StrCat("max-guests ", setup.options.max_guests);
  return row;
}

}  // namespace

absl::StatusOr<DensityResult> RunDensity(
    const DensitySetup& setup,
    const std::function<void(const DensityProgress&)>& progress,
    const std::function<bool()>& stopped) {
  GUESTMM_CHECK(setup.guest_bytes > 0) << "setup is not ResolveDensity's";
  DensityResult result;
  result.setup = setup;
  result.host = ReadHostInfo();
  const absl::StatusOr<MechanismList> mechanisms =
      ParseMechanisms(MechanismOption::kPolicies, setup.options.policies);
  if (!mechanisms.ok()) return mechanisms.status();
  // Before the rows, which its error would lose.
  absl::StatusOr<DensityRow> limit = ComputeLimit(result.setup);
  if (!limit.ok()) return limit.status();
  std::function<void(const DensityProgress&)> told;
  if (progress) {
    told = [&progress, most = limit->guests](DensityProgress at) {
      at.most_guests = most;
      progress(at);
    };
  }
  for (const MechanismSpec& mechanism : mechanisms->specs) {
    const size_t samples = result.samples.size();
    absl::StatusOr<DensityRow> row =
        PolicyRow(result.setup, mechanism, told, stopped, result.samples).Run();
    if (!row.ok()) {
      const bool is_stopped = absl::IsCancelled(row.status());
      if (!is_stopped && result.rows.empty()) return row.status();
      if (!is_stopped) result.status = row.status();
      result.complete = false;
      result.samples.resize(samples);
      break;
    }
    result.rows.push_back(*std::move(row));
  }
  result.rows.push_back(*std::move(limit));
  return result;
}

}  // namespace guestmm
