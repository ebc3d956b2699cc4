// One run on real threads, with real RAM.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/accounting/footprint.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "src/experiment/compare/compare_run.h"
#include "src/machine/real/coarse_clock.h"

namespace guestmm {
namespace {

constexpr std::chrono::milliseconds kTick(5);
// Shorter pauses are accumulated: threads do not wake that precisely.
constexpr std::chrono::milliseconds kShortestPause(1);

// Runs each vCPU's workload on a thread of its own.
class VcpuThreads {
 public:
  VcpuThreads() : wake_([] {}) {}
  ~VcpuThreads() { Stop(); }
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // The arguments must outlive this. Throws std::system_error if the machine
  // has no more threads; those that have started are then the destructor's to
  // stop.
  void Start(std::span<const std::unique_ptr<Vcpu>> vcpus,
             std::span<Workload* const> workloads) {
    auto vcpu = vcpus.begin();
    for (Workload* const workload : workloads) {
      Vcpu& its = **vcpu++;
      if (workload == nullptr) continue;
      threads_.emplace_back([this, &its, workload] { Run(its, *workload); });
    }
  }
  // Ends each thread after its current step.
  void Stop() {
    stop_.store(true, std::memory_order_relaxed);
    timer_.Queue(wake_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    timer_.CancelSync(wake_);
  }

 private:
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  void Run(Vcpu& vcpu, Workload& workload) {
    Nanoseconds pause{0};
    while (!stopped()) {
      const std::optional<Nanoseconds> quiet = workload.Step(vcpu);
      if (!quiet) return;
      pause += *quiet;
      if (pause < kShortestPause) continue;
      timer_.WaitUntil([this] { return stopped(); }, pause);
      pause = Nanoseconds(0);
    }
  }

  std::atomic<bool> stop_{false};
  ThreadWorkqueue timer_;
  Work wake_;
  std::vector<std::thread> threads_;
};

// Samples a guest and integrates its footprint.
class RealRun {
 public:
  RealRun(const CompareSetup& setup, const std::string& policy, uint64_t repeat,
          const RunProgress& progress, CoarseClock& coarse, Guest& guest)
      : setup_(setup),
        policy_(policy),
        repeat_(repeat),
        progress_(progress),
        coarse_(coarse),
        guest_(guest),
        start_(guest.Now()) {
    coarse_.Set(start_);
  }

  // Since the start.
  Nanoseconds Now() const { return guest_.Now() - start_; }

  // Waits until `end`, or until `done` returns true. Samples every second and
  // at the end.
  absl::Status RunUntil(
      Nanoseconds end, absl::FunctionRef<bool()> done = [] { return false; }) {
    while (Now() < end && !done()) {
      guest_.RunUntil(start_ + std::min<Nanoseconds>(Now() + kTick, end));
      coarse_.Set(guest_.Now());
      if (Now() < next_sample_) continue;
      next_sample_ += kSampleEvery;
      if (absl::Status status = Sample(); !status.ok()) return status;
      if (!progress_(std::min(
              1.0,
              ToSeconds(Now()) / ToSeconds(setup_.duration + setup_.rest)))) {
        return absl::CancelledError("stopped");
      }
    }
    return Sample();
  }

  const FootprintIntegral& resident() const { return resident_; }
  const FootprintIntegral& in_use() const { return in_use_; }
  Nanoseconds start() const { return start_; }
  std::vector<CompareSample> TakeSamples() { return std::move(samples_); }

 private:
  absl::Status Sample() {
    const absl::StatusOr<uint64_t> resident = guest_.ram().ResidentBytes();
    if (!resident.ok()) return resident.status();
    const PageCounts counts = guest_.allocator().Counts();
    const Nanoseconds now = Now();
    const PageCount resident_pages(*resident / kPageSize);
    resident_.Add(resident_pages, now);
    // Pages that are allocated but not yet touched take no memory.
    in_use_.Add(std::min(counts.allocated(), resident_pages), now);
    samples_.push_back({.workload = setup_.name,
                        .policy = policy_,
                        .repeat = repeat_,
                        .seconds = ToSeconds(now),
                        .resident_bytes = *resident,
                        .free_bytes = counts.free.bytes(),
                        .host_share_of_free = {}});
    return absl::OkStatus();
  }

  const CompareSetup& setup_;
  const std::string& policy_;
  const uint64_t repeat_;
  const RunProgress& progress_;
  CoarseClock& coarse_;
  Guest& guest_;
  const Nanoseconds start_;
  Nanoseconds next_sample_{0};
  FootprintIntegral resident_;
  FootprintIntegral in_use_;
  std::vector<CompareSample> samples_;
};

// Sets the shares of free memory, by what the host's kernel says is resident.
absl::Status FillMeasuredShares(const CompareOptions& options, Guest& guest,
                                CompareRow& row) {
  absl::Status status;
  FillShares(
      options, guest.allocator(),
      [&](Pfn pfn, Order order) {
        // A host with larger pages maps all of one or none of it.
        const uint64_t host_page = HostPageSize();
        const uint64_t bytes = std::max(order.bytes(), host_page);
        const absl::StatusOr<uint64_t> resident = guest.ram().ResidentBytes(
            {.gpa = Gpa(ToGpa(pfn).value() / host_page * host_page),
             .bytes = bytes});
        status.Update(resident.status());
        return PageCount(std::min(resident.value_or(bytes), order.bytes()) /
                         kPageSize);
      },
      row);
  return status;
}

}  // namespace

absl::StatusOr<CompareRun> RunForReal(const CompareOptions& options,
                                      const CompareSetup& setup,
                                      const MechanismSpec& mechanism,
                                      uint64_t repeat, const WorkAmount* amount,
                                      const RunProgress& progress) {
  Random random(options.seed);
  GuestOptions guest_options = {.memory = MemoryMap::Pc(setup.guest_bytes),
                                .huge_pages = setup.granule == Order(0)
                                                  ? HugePages::kForbid
                                                  : HugePages::kAdvise,
                                .vcpus = static_cast<int>(setup.vcpus),
                                .kernel = KernelOf(options)};
  guest_options.ledger_granule = setup.granule;
  // To read the machine's clock at every touch takes 30 ns, beside the 500 ns
  // of a page fault.
  CoarseClock coarse;
  guest_options.ledger_clock = &coarse;
  // One range per call, as in virtual time and on every kernel.
  guest_options.discard.ranges_per_call = RangesPerCall::kOne;
  absl::StatusOr<std::unique_ptr<Guest>> made = Guest::Create(guest_options);
  if (!made.ok()) return made.status();
  Guest& guest = **made;
  const absl::StatusOr<GuestLoad> load = Boot(guest, setup, random);
  if (!load.ok()) return load.status();
  absl::Status status = StartMechanism(guest, options, setup, mechanism);
  if (!status.ok()) return status;

  const std::string policy = mechanism.text(MechanismOption::kPolicies);
  RealRun run(setup, policy, repeat, progress, coarse, guest);
  WorkMeter meter(
      *load, [&run] { return run.Now(); }, amount);
  const std::vector<Workload*> workloads = meter.workloads();
  {
    VcpuThreads threads;
    threads.Start(guest.all_vcpus(), workloads);
    if (amount == nullptr) {
      status = run.RunUntil(setup.warmup);
      meter.MarkWarmup();
      if (status.ok()) status = run.RunUntil(setup.duration);
    } else {
      status = run.RunUntil(kMostSlowdown * setup.duration, [&] {
        const std::optional<Nanoseconds> end = meter.end();
        return end.has_value() && *end <= run.Now();
      });
    }
    threads.Stop();
    meter.MarkEnd();
  }
  // The end of the last vCPU's part may be yet to come.
  const Nanoseconds work_end = std::max(*meter.end(), run.Now());
  if (status.ok()) status = run.RunUntil(work_end + setup.rest);
  if (status.ok()) status = guest.status();
  if (!status.ok()) return status;

  CompareRun result;
  CompareRow& row = result.row;
  row.workload = setup.name;
  row.policy = policy;
  FillWork(meter, row);
  status = FillMeasuredShares(options, guest, row);
  if (!status.ok()) return status;
  FillCounters(guest, row);
  FillTimes(run.start() + work_end, guest.discards(), row);
  row.footprint_gib_min = run.resident().gib_minutes();
  result.in_use_gib_min = run.in_use().gib_minutes();
  if (amount == nullptr) result.amount = meter.amount();
  result.work_end = work_end;
  result.samples = run.TakeSamples();
  return result;
}

}  // namespace guestmm
