// One run in virtual time.

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/model_machine.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {
namespace {

// Counts a block's resident pages by the ledger.
auto ResidentIn(const HostLedger& ledger) {
  return [&ledger](Pfn pfn, Order order) {
    return ledger.ResidentPages(pfn, order);
  };
}

// Runs a guest and samples it every second.
class VirtualRun {
 public:
  VirtualRun(const CompareSetup& setup, std::string policy,
             const RunProgress& progress, ModelMachine& guest)
      : setup_(setup),
        policy_(std::move(policy)),
        progress_(progress),
        guest_(guest) {}

  // Runs until `end` or until it is stopped, sampling every second.
  void RunUntil(Nanoseconds end) {
    while (guest_.Now() < end && !stopped_) RunFor(end - guest_.Now());
  }
  // Runs until the work ends, or until `bound`. May overrun the end by kLook.
  void RunUntilDone(const WorkMeter& meter, Nanoseconds bound) {
    while (!meter.end() && guest_.Now() < bound && !stopped_) {
      RunFor(std::min<Nanoseconds>(bound - guest_.Now(), kLook));
    }
    RunUntil(std::min(bound, meter.end().value_or(bound)));
  }

  void Sample() {
    const FreeMemory free =
        CountFree(guest_.allocator(), ResidentIn(*guest_.ledger()));
    samples_.push_back(
        {.workload = setup_.name,
         .policy = policy_,
         .seconds = ToSeconds(guest_.Now()),
         .resident_bytes = guest_.ledger()->resident_pages().bytes(),
         .free_bytes = free.pages.bytes(),
         .host_share_of_free = free.share()});
  }

  // True once the progress said so.
  bool stopped() const { return stopped_; }
  std::vector<CompareSample> TakeSamples() { return std::move(samples_); }

 private:
  static constexpr std::chrono::milliseconds kLook{1};

  // Runs for `most`, or until the next sample is due.
  void RunFor(Nanoseconds most) {
    guest_.RunFor(std::min<Nanoseconds>(
        most, kSampleEvery - guest_.Now() % kSampleEvery));
    if (guest_.Now() % kSampleEvery > Nanoseconds(0)) return;
    Sample();
    stopped_ =
        !progress_(std::min(1.0, ToSeconds(guest_.Now()) /
                                     ToSeconds(setup_.duration + setup_.rest)));
  }

  const CompareSetup& setup_;
  const std::string policy_;
  const RunProgress& progress_;
  ModelMachine& guest_;
  bool stopped_ = false;
  std::vector<CompareSample> samples_;
};

}  // namespace

absl::StatusOr<CompareRun> RunVirtually(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const MechanismSpec& mechanism,
                                        const WorkAmount* amount,
                                        const RunProgress& progress) {
  // Every policy has the same draws.
  Random random(options.seed);
  VirtualTime time(random.Next());
  absl::StatusOr<std::unique_ptr<ModelMachine>> made = ModelMachine::Create(
      {.memory = MemoryMap::Pc(setup.guest_bytes, setup.recipe->workload.nodes),
       .vcpus = static_cast<int>(setup.vcpus),
       .kernel = KernelOf(options),
       .granule = setup.granule,
       .khugepaged = options.khugepaged,
       .costs = options.costs},
      time);
  if (!made.ok()) return made.status();
  ModelMachine& guest = **made;
  const absl::StatusOr<GuestLoad> load = Boot(guest, setup, random);
  if (!load.ok()) return load.status();
  absl::Status status = StartMechanism(guest, options, setup, mechanism);
  if (!status.ok()) return status;

  WorkMeter meter(
      *load, [&guest] { return guest.Now(); }, amount);
  const std::string policy = mechanism.text(MechanismOption::kPolicies);
  const std::vector<Workload*> workloads = meter.workloads();
  VirtualRun run(setup, policy, progress, guest);
  run.Sample();
  guest.StartWorkloads(workloads);
  if (amount == nullptr) {
    run.RunUntil(setup.warmup);
    meter.MarkWarmup();
    run.RunUntil(setup.duration);
  } else {
    run.RunUntilDone(meter, kMostSlowdown * setup.duration);
  }
  meter.MarkEnd();
  guest.StopWorkloads();
  const Nanoseconds work_end = *meter.end();
  run.RunUntil(work_end + setup.rest);
  if (guest.Now() % kSampleEvery > Nanoseconds(0)) run.Sample();
  if (run.stopped()) return absl::CancelledError("stopped");
  if (!guest.status().ok()) return guest.status();

  CompareRun result;
  CompareRow& row = result.row;
  row.workload = setup.name;
  row.policy = policy;
  FillWork(meter, row);
  FillShares(options, guest.allocator(), ResidentIn(*guest.ledger()), row);
  FillCounters(guest, row);
  FillTimes(work_end, guest.discards(), row);
  const ModelMachine::Footprint footprint = guest.footprint();
  row.footprint_gib_min = footprint.resident.gib_minutes();
  result.in_use_gib_min = footprint.allocated.gib_minutes();
  if (amount == nullptr) result.amount = meter.amount();
  result.work_end = work_end;
  for (size_t kind = 0; kind < kCostKinds; ++kind) {
    result.spent[kind] = guest.spent(static_cast<CostKind>(kind));
  }
  result.samples = run.TakeSamples();
  return result;
}

}  // namespace guestmm
