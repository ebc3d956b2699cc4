// One run on real threads, with real RAM.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/reporting/reporter.h"
#include "src/experiment/compare/compare_run.h"
#include "src/host/accounting/ledger_hypervisor.h"
#include "src/machine/ledger_backing.h"
#include "src/machine/real/coarse_clock.h"
#include "src/machine/real/hold_timer.h"

namespace guestmm {
namespace {

constexpr std::chrono::milliseconds kTick(5);
// Shorter pauses of a workload are saved up: no thread wakes up that exactly.
constexpr std::chrono::milliseconds kShortestPause(1);

// The vCPUs' threads.
class VcpuThreads {
 public:
  // All must outlive this.
  VcpuThreads(std::span<const std::unique_ptr<Vcpu>> vcpus,
              std::span<const std::unique_ptr<Workload>> workloads)
      : work_(workloads.size()), wake_([] {}) {
    size_t next = 0;
    for (const std::unique_ptr<Workload>& workload : workloads) {
      const size_t i = next++;
      if (workload == nullptr) continue;
      threads_.emplace_back([this, &vcpu = *vcpus[i], &its = *workload,
                             &done = work_[i]] { Run(vcpu, its, done); });
    }
  }
  ~VcpuThreads() { Stop(); }
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // Each thread ends after the step it is at.
  void Stop() {
    stop_.store(true, std::memory_order_relaxed);
    timer_.Queue(wake_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    timer_.CancelSync(wake_);
  }

  // What all have done.
  uint64_t work() const {
    uint64_t sum = 0;
    for (const auto& work : work_) sum += work.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  void Run(Vcpu& vcpu, Workload& workload, std::atomic<uint64_t>& done) {
    Nanoseconds pause{0};
    while (!stopped()) {
      const std::optional<Nanoseconds> quiet = workload.Step(vcpu);
      done.store(workload.work(), std::memory_order_relaxed);
      if (!quiet) return;
      pause += *quiet;
      if (pause < kShortestPause) continue;
      timer_.WaitUntil([this] { return stopped(); }, pause);
      pause = Nanoseconds(0);
    }
  }

  std::vector<std::atomic<uint64_t>> work_;
  std::atomic<bool> stop_{false};
  ThreadWorkqueue timer_;
  Work wake_;
  std::vector<std::thread> threads_;
};

// What is measured while a run goes on.
class RealRun {
 public:
  RealRun(const CompareSetup& setup, const std::string& policy, uint64_t repeat,
          const RunProgress& progress, const Clock& clock, CoarseClock& coarse,
          Guest& guest)
      : setup_(setup),
        policy_(policy),
        repeat_(repeat),
        progress_(progress),
        clock_(clock),
        coarse_(coarse),
        guest_(guest),
        start_(clock.Now()) {}

  // Since the boot.
  Nanoseconds Now() const { return clock_.Now() - start_; }

  // Waits until `end`, taking samples.
  absl::Status RunUntil(Nanoseconds end) {
    while (Now() < end) {
      timer_.WaitUntil([] { return false; },
                       std::min<Nanoseconds>(kTick, end - Now()));
      coarse_.Set(Now());
      if (Now() < next_sample_) continue;
      next_sample_ += kSampleEvery;
      if (absl::Status status = Sample(); !status.ok()) return status;
      progress_(ToSeconds(Now()) / ToSeconds(setup_.duration + setup_.rest));
    }
    return Sample();
  }

  // In pages times microseconds, as VirtualGuest's.
  uint64_t resident_footprint() const { return resident_footprint_; }
  uint64_t allocated_footprint() const { return allocated_footprint_; }
  std::vector<CompareSample> TakeSamples() { return std::move(samples_); }

 private:
  absl::Status Sample() {
    const absl::StatusOr<uint64_t> resident = guest_.ram().ResidentBytes();
    if (!resident.ok()) return resident.status();
    const PageCounts counts = guest_.allocator().Counts();
    const Nanoseconds now = Now();
    const auto passed = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(now - sampled_at_)
            .count());
    sampled_at_ = now;
    resident_footprint_ += *resident / kPageSize * passed;
    allocated_footprint_ += counts.allocated().value() * passed;
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
  const Clock& clock_;
  CoarseClock& coarse_;
  Guest& guest_;
  const Nanoseconds start_;
  ThreadWorkqueue timer_;
  Nanoseconds next_sample_{0};
  Nanoseconds sampled_at_{0};
  uint64_t resident_footprint_ = 0;
  uint64_t allocated_footprint_ = 0;
  std::vector<CompareSample> samples_;
};

// The shares of free memory by the kernel's word.
absl::Status FillMeasuredShares(const CompareOptions& options, Guest& guest,
                                CompareRow& row) {
  absl::Status status;
  FillShares(
      options, guest.allocator(),
      [&](Pfn pfn, Order order) {
        // A host with larger pages has all of one or nothing.
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
                                      const std::string& policy,
                                      uint64_t repeat,
                                      const RunProgress& progress) {
  Random random(options.seed);
  const MonotonicClock clock;
  CoarseClock coarse;
  HoldTimer holds(clock);
  GuestOptions guest_options = {.memory = MemoryMap::Pc(setup.guest_bytes),
                                .huge_pages = setup.granule == Order(0)
                                                  ? HugePages::kForbid
                                                  : HugePages::kAdvise,
                                .vcpus = static_cast<int>(setup.vcpus)};
  HostLedger ledger(guest_options.memory.back().end, setup.granule);
  LedgerBacking* backing = nullptr;
  LedgerHypervisor* hypervisor = nullptr;
  guest_options.holds = &holds;
  guest_options.make_backing = [&](const GuestRam& ram) {
    auto made = std::make_unique<LedgerBacking>(&ram, ledger, coarse);
    backing = made.get();
    return made;
  };
  guest_options.make_hypervisor = [&](const GuestRam& ram) {
    // One range a call, as in virtual time and on every kernel.
    auto made = std::make_unique<LedgerHypervisor>(
        *DiscardingHypervisor::Create(ram,
                                      {.ranges_per_call = RangesPerCall::kOne}),
        ledger, coarse);
    hypervisor = made.get();
    return made;
  };
  if (policy != kPolicyOff) {
    guest_options.make_policy = [&] {
      return *MakePolicy(policy, options.policy_parameters);
    };
  }
  absl::StatusOr<std::unique_ptr<Guest>> made = Guest::Create(guest_options);
  if (!made.ok()) return made.status();
  Guest& guest = **made;
  absl::Status status = BootGuest(guest.vcpu(0), setup.guest_bytes);
  if (!status.ok()) return status;
  BootedGuest world{.allocator = guest.allocator(),
                    .vcpus = guest.all_vcpus(),
                    .guest_bytes = setup.guest_bytes,
                    .duration = setup.duration,
                    .random = random.Fork()};
  const GuestLoad load = setup.recipe->make(world);

  RealRun run(setup, policy, repeat, progress, clock, coarse, guest);
  CompareRun result;
  CompareRow& row = result.row;
  Nanoseconds measured{0};
  {
    VcpuThreads threads(guest.all_vcpus(), load.by_vcpu);
    status = run.RunUntil(setup.warmup);
    const Nanoseconds from = run.Now();
    const uint64_t before = threads.work();
    if (status.ok()) status = run.RunUntil(setup.duration);
    measured = run.Now() - from;
    row.work = threads.work() - before;
  }
  const Nanoseconds rest_from = run.Now();
  if (status.ok()) status = run.RunUntil(rest_from + setup.rest);
  if (!status.ok()) return status;
  if (backing->lost_any()) {
    return absl::DataLossError("a page in use lost its contents");
  }

  row.workload = setup.name;
  row.policy = policy;
  // As if all runs had been exactly as long.
  if (measured > Nanoseconds(0)) {
    row.work = static_cast<uint64_t>(static_cast<double>(*row.work) *
                                     ToSeconds(setup.duration - setup.warmup) /
                                     ToSeconds(measured));
  }
  row.kicks = guest.counters().kicks;
  row.discard_calls = guest.hypervisor().counters().calls;
  status = FillMeasuredShares(options, guest, row);
  if (!status.ok()) return status;
  FillRow(guest.allocator(), ledger, guest.reporter(), holds.times(), row);
  FillTimes(rest_from, hypervisor->discards(), row);
  row.footprint_gib_min =
      GibMinutes(static_cast<double>(run.resident_footprint()));
  result.allocated_gib_min =
      GibMinutes(static_cast<double>(run.allocated_footprint()));
  result.samples = run.TakeSamples();
  return result;
}

}  // namespace guestmm
