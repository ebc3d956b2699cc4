#ifndef GUESTMM_MACHINE_MODEL_MODEL_MACHINE_H_
#define GUESTMM_MACHINE_MODEL_MODEL_MACHINE_H_

// A machine in virtual time. It has no RAM, only the allocator and the host's
// ledger of what would be resident; every operation is charged its cost
// (CostModel) on the vCPU that it delays.
//
//   VirtualTime time(/*seed=*/7);
//   auto machine = ModelMachine::Create({.memory = MemoryMap::Pc(kGiB)}, time);
//   (*machine)->StartMechanism(std::make_unique<ReportingMechanism>(...));
//   (*machine)->StartWorkloads(workloads);
//   (*machine)->RunUntil(std::chrono::minutes(1));
//
// Machines that share a VirtualTime run side by side on it.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/host/accounting/footprint.h"
#include "guestmm/machine/machine.h"
#include "guestmm/machine/model/cost_kind.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"

namespace GUESTMM_EXPORT guestmm {

class PerCpuRefresh;

struct ModelMachineOptions {
  MemoryMap memory = {};
  int vcpus = 1;
  // The kernel whose per-CPU lists and free-list order are modelled.
  KernelVersion kernel = KernelVersion::kV5_3;
  // The unit in which the host maps memory (HostLedger): at most
  // kPageblockOrder.
  Order granule{0};
  // The host runs khugepaged, which makes split huge pages whole again.
  bool khugepaged = false;
  CostModel costs = {};
  // A request that would fail while memory is isolated for the host blocks its
  // vCPU until some of that returns (PageAllocatorOptions); its time is then
  // CostKind::kStall. False: the request fails.
  bool wait_for_isolated = false;
};

// A vCPU runs its workload one step at a time. A step happens at one instant;
// the vCPU is busy afterwards for what the step cost, then quiet for as long as
// the workload says. A step in which a request has to wait ends as blocked; the
// next one begins when the request is worth another try:
//
//   |step|..cost..|..quiet..|step|..cost..|..stall..|step|..cost..|
class ModelMachine final : public Machine {
 public:
  // On `time`, which must outlive this. The error of PageAllocator::Create.
  static absl::StatusOr<std::unique_ptr<ModelMachine>> Create(
      const ModelMachineOptions& options, VirtualTime& time);
  // Stops workloads and the mechanism. A report in flight ends first, so the
  // clock may go on, and other machines with it.
  ~ModelMachine() override;

  // Has vCPU i run workloads[i] from now on; null for none. They must outlive
  // this or StopWorkloads.
  void StartWorkloads(std::span<Workload* const> workloads);
  // Ends all workloads after the step they are at.
  void StopWorkloads();
  void RunFor(Nanoseconds duration) { time_.RunFor(duration); }

  // The time that vCPUs have spent since the boot ended, in ns.
  uint64_t spent(CostKind kind) const;
  // Pages that vCPUs hold.
  PageCount allocated_pages() const;

  // Since the machine was made: what was resident, and what vCPUs held.
  struct Footprint {
    FootprintIntegral resident;
    FootprintIntegral allocated;
  };
  Footprint footprint();

  // Machine:
  PageAllocator& allocator() override { return *allocator_; }
  std::span<const std::unique_ptr<Vcpu>> all_vcpus() const override {
    return vcpus_;
  }
  const HostLedger* ledger() const override;
  std::vector<DiscardedUntil> discards() const override { return discards_; }
  MachineCounters counters() const override;
  absl::Status status() const override;
  Nanoseconds Now() const override { return time_.Now(); }
  void RunUntil(Nanoseconds time) override;
  bool WaitUntilAtRest(Nanoseconds timeout) override;
  absl::Status StartReporting(std::unique_ptr<ReportingPolicy> policy) override;
  void StopReporting() override;
  Reporter* reporter() override { return reporter_.get(); }
  const Reporter* reporter() const override { return reporter_.get(); }
  absl::Status CheckInvariants() const override;

 private:
  // The models of the host and of time spent.
  struct Models;
  // A vCPU and the workload that it runs.
  struct Processor;

  ModelMachine(const ModelMachineOptions& options, VirtualTime& time,
               std::unique_ptr<PageAllocator> allocator);

  void EndBoot() override;
  void Step(Processor& processor);
  void OnDiscard();
  // khugepaged visits the huge page.
  void OnCollapse(Pfn pfn);
  // Brings footprint_ up to the present.
  void Integrate();

  VirtualTime& time_;
  std::unique_ptr<PageAllocator> allocator_;
  // Null if the kernel's lists need none.
  std::unique_ptr<PerCpuRefresh> refresh_;
  std::unique_ptr<Models> models_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::unique_ptr<Processor>> processors_;
  std::unique_ptr<Reporter> reporter_;

  Footprint footprint_;
  // Levels since footprint_ was last brought up to date.
  PageCount resident_;
  PageCount allocated_;
  std::vector<DiscardedUntil> discards_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_MODEL_MACHINE_H_
