// One run in virtual time.

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/random.h"
#include "src/experiment/compare/compare_run.h"
#include "src/machine/model/virtual_guest.h"

namespace guestmm {
namespace {

// Counts a block's pages by what the ledger says.
auto ResidentIn(const HostLedger& ledger) {
  return [&ledger](Pfn pfn, Order order) {
    return ledger.ResidentPages(pfn, order);
  };
}

// A run under way.
class VirtualRun {
 public:
  VirtualRun(const CompareSetup& setup, std::string policy,
             const RunProgress& progress, VirtualGuest& guest)
      : setup_(setup),
        policy_(std::move(policy)),
        progress_(progress),
        guest_(guest) {}

  // Runs until `end`, taking samples.
  void RunUntil(Nanoseconds end) {
    while (guest_.Now() < end) {
      const Nanoseconds left = end - guest_.Now();
      guest_.RunFor(std::min<Nanoseconds>(
          left, kSampleEvery - guest_.Now() % kSampleEvery));
      Sample();
      progress_(ToSeconds(guest_.Now()) /
                ToSeconds(setup_.duration + setup_.rest));
    }
  }

  void Sample() {
    const FreeMemory free =
        CountFree(guest_.allocator(), ResidentIn(guest_.ledger()));
    samples_.push_back(
        {.workload = setup_.name,
         .policy = policy_,
         .seconds = ToSeconds(guest_.Now()),
         .resident_bytes = guest_.ledger().resident_pages().bytes(),
         .free_bytes = free.pages.bytes(),
         .host_share_of_free = free.share()});
  }

  std::vector<CompareSample> TakeSamples() { return std::move(samples_); }

 private:
  const CompareSetup& setup_;
  const std::string policy_;
  const RunProgress& progress_;
  VirtualGuest& guest_;
  std::vector<CompareSample> samples_;
};

}  // namespace

absl::StatusOr<CompareRun> RunVirtually(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const std::string& policy,
                                        const RunProgress& progress) {
  // The same draws whatever the policy.
  Random random(options.seed);
  absl::StatusOr<std::unique_ptr<VirtualGuest>> made = VirtualGuest::Create(
      {.memory = MemoryMap::Pc(setup.guest_bytes, setup.recipe->workload.nodes),
       .vcpus = static_cast<int>(setup.vcpus),
       .granule = setup.granule,
       .costs = options.costs,
       .seed = random.Next()});
  if (!made.ok()) return made.status();
  VirtualGuest& guest = **made;
  absl::Status status = BootGuest(*guest.vcpus().front(), setup.guest_bytes);
  if (!status.ok()) return status;
  BootedGuest world{.allocator = guest.allocator(),
                    .vcpus = guest.vcpus(),
                    .guest_bytes = setup.guest_bytes,
                    .duration = setup.duration,
                    .random = random.Fork()};
  const GuestLoad load = setup.recipe->make(world);
  absl::StatusOr<std::unique_ptr<ReportingPolicy>> reporting =
      PolicyFor(options, setup, policy);
  if (!reporting.ok()) return reporting.status();
  status = guest.StartReporting(*std::move(reporting));
  if (!status.ok()) return status;

  std::vector<Workload*> workloads;
  for (const auto& workload : load.by_vcpu) workloads.push_back(workload.get());
  VirtualRun run(setup, policy, progress, guest);
  run.Sample();
  guest.StartWorkloads(workloads);
  run.RunUntil(setup.warmup);
  const uint64_t work_before = load.work();
  run.RunUntil(setup.duration);
  guest.StopWorkloads();
  const uint64_t work = load.work() - work_before;
  run.RunUntil(setup.duration + setup.rest);
  if (!guest.device().status().ok()) return guest.device().status();

  CompareRun result;
  CompareRow& row = result.row;
  row.workload = setup.name;
  row.policy = policy;
  row.work = work;
  row.kicks = guest.device().kicks();
  row.discard_calls = guest.device().discard_calls();
  FillShares(options, guest.allocator(), ResidentIn(guest.ledger()), row);
  FillRow(guest.allocator(), guest.ledger(), guest.reporter(),
          guest.hold_times(), row);
  FillTimes(setup.duration, guest.discards(), row);
  const VirtualGuest::Footprint footprint = guest.footprint();
  row.footprint_gib_min = GibMinutes(static_cast<double>(footprint.resident));
  result.allocated_gib_min =
      GibMinutes(static_cast<double>(footprint.allocated));
  for (size_t kind = 0; kind < kCostKinds; ++kind) {
    result.spent[kind] = guest.times().spent(static_cast<CostKind>(kind));
  }
  result.samples = run.TakeSamples();
  return result;
}

}  // namespace guestmm
