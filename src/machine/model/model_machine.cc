#include "guestmm/machine/model/model_machine.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/reporting_policy.h"
#include "src/host/accounting/khugepaged.h"
#include "src/machine/model/metered_policy.h"
#include "src/machine/model/model_backing.h"
#include "src/machine/model/model_device.h"
#include "src/machine/model/vcpu_times.h"
#include "src/machine/model/zone_lock_model.h"
#include "src/machine/per_cpu_refresh.h"

namespace guestmm {

struct ModelMachine::Models {
  Models(const ModelMachineOptions& options, VirtualTime& time,
         PageAllocator& allocator)
      : costs(options.costs),
        ledger(allocator.hotplug_end(), options.granule),
        times(time, options.vcpus),
        locks(costs, time, allocator, times),
        hooks(costs),
        backing(costs, ledger, times, locks, hooks),
        device(
            ModelDeviceOptions{
                .costs = costs, .times = &times, .locks = &locks},
            time, ledger) {}

  const CostModel costs;
  HostLedger ledger;
  VcpuTimes times;
  ZoneLockModel locks;
  HookCosts hooks;
  ModelBacking backing;
  ModelDevice device;
  std::optional<Khugepaged> khugepaged;
};

struct ModelMachine::Processor {
  Processor(ModelMachine& machine, Vcpu& the_vcpu, Workload& its_workload)
      : vcpu(the_vcpu),
        workload(its_workload),
        step([this, &machine] { machine.Step(*this); }) {}

  Vcpu& vcpu;
  Workload& workload;
  Work step;
  // The condition that the last step ended as blocked on; null if it did not.
  std::function<bool()> retry_when;
};

absl::StatusOr<std::unique_ptr<ModelMachine>> ModelMachine::Create(
    const ModelMachineOptions& options, VirtualTime& time) {
  absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create(
          {.memory = options.memory,
           .cpus = options.vcpus,
           .per_cpu_lists = options.kernel,
           .placement = {.rules = options.kernel},
           .wait_for_isolated = options.wait_for_isolated ? &time : nullptr});
  if (!allocator.ok()) return allocator.status();
  return std::unique_ptr<ModelMachine>(
      new ModelMachine(options, time, *std::move(allocator)));
}

ModelMachine::ModelMachine(const ModelMachineOptions& options,
                           VirtualTime& time,
                           std::unique_ptr<PageAllocator> allocator)
    : time_(time),
      allocator_(std::move(allocator)),
      models_(std::make_unique<Models>(options, time, *allocator_)),
      footprint_{.resident = FootprintIntegral(time.Now()),
                 .allocated = FootprintIntegral(time.Now())} {
  if (options.kernel == KernelVersion::kV6_12) {
    refresh_ = std::make_unique<PerCpuRefresh>(*allocator_, time_);
  }
  for (int id = 0; id < options.vcpus; ++id) {
    vcpus_.push_back(std::make_unique<Vcpu>(id, *allocator_, models_->backing));
  }
  models_->device.set_on_discard(
      [this](std::span<const GpaRange>) { OnDiscard(); });
  if (options.khugepaged) {
    models_->khugepaged.emplace(time, options.memory,
                                [this](Pfn pfn) { OnCollapse(pfn); });
  }
}

ModelMachine::~ModelMachine() {
  StopWorkloads();
  StopMechanism();
}

void ModelMachine::EndBoot() {
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
    models_->times.BeginStep(vcpu->id());
    models_->locks.OnStep(vcpu->id());
  }
  models_->times.ForgetSpent();
  resident_ = models_->ledger.resident_pages();
  allocated_ = allocated_pages();
}

absl::Status ModelMachine::StartReporting(
    std::unique_ptr<ReportingPolicy> policy) {
  GUESTMM_CHECK(policy != nullptr);
  if (reporter_ != nullptr) {
    return absl::FailedPreconditionError("the guest is already reporting");
  }
  reporter_ = std::make_unique<Reporter>(
      *allocator_, time_,
      std::make_unique<MeteredPolicy>(std::move(policy), models_->hooks),
      &models_->locks);
  absl::Status status = reporter_->Enable(models_->device);
  if (!status.ok()) reporter_.reset();
  return status;
}

void ModelMachine::StopReporting() { reporter_.reset(); }

void ModelMachine::StartWorkloads(std::span<Workload* const> workloads) {
  GUESTMM_CHECK(workloads.size() <= vcpus_.size());
  for (size_t i = 0; i < workloads.size(); ++i) {
    if (workloads[i] == nullptr) continue;
    processors_.push_back(
        std::make_unique<Processor>(*this, *vcpus_[i], *workloads[i]));
    time_.Queue(processors_.back()->step);
  }
}

void ModelMachine::StopWorkloads() {
  for (const auto& processor : processors_) {
    time_.CancelSync(processor->step);
  }
  processors_.clear();
}

void ModelMachine::Step(Processor& processor) {
  Integrate();
  const int id = processor.vcpu.id();
  if (processor.retry_when != nullptr) {
    if (!processor.retry_when()) {
      time_.QueueWhen(processor.step, processor.retry_when);
      return;
    }
    models_->times.CountSinceStep(id, CostKind::kStall);
  }
  models_->times.BeginStep(id);
  models_->locks.OnStep(id);
  const std::optional<Nanoseconds> quiet =
      processor.workload.Step(processor.vcpu);
  processor.retry_when = processor.vcpu.TakeBlockedOn();
  const Nanoseconds took = models_->times.EndStep(id);
  resident_ = models_->ledger.resident_pages();
  allocated_ = allocated_pages();
  Nanoseconds next = took;
  if (processor.retry_when == nullptr) {
    if (!quiet) return;
    next += *quiet;
  }
  // At least 1 ns, so that a workload whose steps cost nothing cannot stop the
  // clock.
  time_.Queue(processor.step, std::max(next, Nanoseconds(1)));
}

void ModelMachine::OnDiscard() {
  Integrate();
  resident_ = models_->ledger.resident_pages();
  const uint64_t bytes = models_->ledger.counters().discarded_bytes;
  if (!discards_.empty() ? bytes == discards_.back().bytes : bytes == 0) return;
  discards_.push_back({.when = time_.Now(), .bytes = bytes});
}

void ModelMachine::OnCollapse(Pfn pfn) {
  Integrate();
  models_->ledger.OnCollapsed(pfn);
  resident_ = models_->ledger.resident_pages();
}

void ModelMachine::Integrate() {
  footprint_.resident.Add(resident_, time_.Now());
  footprint_.allocated.Add(allocated_, time_.Now());
}

ModelMachine::Footprint ModelMachine::footprint() {
  Integrate();
  return footprint_;
}

uint64_t ModelMachine::spent(CostKind kind) const {
  return models_->times.spent(kind);
}

PageCount ModelMachine::allocated_pages() const {
  return models_->backing.allocated_pages();
}

const HostLedger* ModelMachine::ledger() const { return &models_->ledger; }

MachineCounters ModelMachine::counters() const {
  return {.kicks = models_->device.kicks(),
          .discard_calls = models_->device.discard_calls(),
          .holds = models_->locks.hold_times()};
}

absl::Status ModelMachine::status() const { return models_->device.status(); }

void ModelMachine::RunUntil(Nanoseconds time) {
  if (time > Now()) time_.RunFor(time - Now());
}

bool ModelMachine::WaitUntilAtRest(Nanoseconds timeout) {
  return time_.WaitUntil(
      [this] { return mechanism() == nullptr || mechanism()->AtRest(); },
      timeout);
}

absl::Status ModelMachine::CheckInvariants() const {
  if (reporter_ == nullptr) return CheckGuest(*allocator_, PageCount(0));
  absl::Status status = CheckGuest(*allocator_, reporter_->in_flight_pages());
  status.Update(reporter_->policy().CheckInvariants());
  return status;
}

}  // namespace guestmm
