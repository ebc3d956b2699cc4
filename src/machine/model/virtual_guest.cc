#include "src/machine/model/virtual_guest.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {

// A vCPU with something to do.
struct VirtualGuest::Processor {
  Processor(VirtualGuest& guest, Vcpu& the_vcpu, Workload& its_workload)
      : vcpu(the_vcpu),
        workload(its_workload),
        step([this, &guest] { guest.Step(*this); }) {}

  Vcpu& vcpu;
  Workload& workload;
  Work step;
};

absl::StatusOr<std::unique_ptr<VirtualGuest>> VirtualGuest::Create(
    const VirtualGuestOptions& options) {
  absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create({.memory = options.memory, .cpus = options.vcpus});
  if (!allocator.ok()) return allocator.status();
  return std::unique_ptr<VirtualGuest>(
      new VirtualGuest(options, *std::move(allocator)));
}

VirtualGuest::VirtualGuest(const VirtualGuestOptions& options,
                           std::unique_ptr<PageAllocator> allocator)
    : costs_(options.costs),
      time_(options.seed),
      allocator_(std::move(allocator)),
      ledger_(allocator_->hotplug_end(), options.granule),
      times_(time_, options.vcpus),
      locks_(costs_, time_, *allocator_, times_),
      backing_(costs_, ledger_, times_, locks_, hooks_),
      device_(costs_, time_, ledger_, times_, locks_) {
  for (int id = 0; id < options.vcpus; ++id) {
    vcpus_.push_back(std::make_unique<Vcpu>(id, *allocator_, backing_));
  }
  device_.set_on_discard([this] { OnDiscard(); });
}

VirtualGuest::~VirtualGuest() { StopWorkloads(); }

absl::Status VirtualGuest::StartReporting(
    std::unique_ptr<ReportingPolicy> policy) {
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
    times_.BeginStep(vcpu->id());
    locks_.OnStep(vcpu->id());
  }
  times_.ForgetSpent();
  resident_ = ledger_.resident_pages();
  allocated_ = allocated_pages();
  if (policy == nullptr) return absl::OkStatus();
  reporter_ = std::make_unique<Reporter>(
      *allocator_, time_,
      std::make_unique<MeteredPolicy>(std::move(policy), hooks_), &locks_);
  return reporter_->Enable(device_);
}

void VirtualGuest::StartWorkloads(std::span<Workload* const> workloads) {
  GUESTMM_CHECK(workloads.size() <= vcpus_.size());
  for (size_t i = 0; i < workloads.size(); ++i) {
    if (workloads[i] == nullptr) continue;
    processors_.push_back(
        std::make_unique<Processor>(*this, *vcpus_[i], *workloads[i]));
    time_.Queue(processors_.back()->step);
  }
}

void VirtualGuest::StopWorkloads() {
  for (const auto& processor : processors_) {
    time_.CancelSync(processor->step);
  }
  processors_.clear();
}

void VirtualGuest::Step(Processor& processor) {
  Integrate();
  const int id = processor.vcpu.id();
  times_.BeginStep(id);
  locks_.OnStep(id);
  const std::optional<Nanoseconds> quiet =
      processor.workload.Step(processor.vcpu);
  const Nanoseconds took = times_.EndStep(id);
  resident_ = ledger_.resident_pages();
  allocated_ = allocated_pages();
  if (!quiet) return;
  // Time goes on, even if a step did nothing.
  time_.Queue(processor.step, std::max(took + *quiet, Nanoseconds(1)));
}

void VirtualGuest::OnDiscard() {
  Integrate();
  resident_ = ledger_.resident_pages();
  const uint64_t bytes = ledger_.counters().discarded_bytes;
  if (!discards_.empty() ? bytes == discards_.back().bytes : bytes == 0) return;
  discards_.push_back({.when = time_.Now(), .bytes = bytes});
}

void VirtualGuest::Integrate() {
  const auto now_us = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time_.Now())
          .count());
  const uint64_t passed = now_us - integrated_us_;
  integrated_us_ = now_us;
  footprint_.resident += resident_.value() * passed;
  footprint_.allocated += allocated_.value() * passed;
}

VirtualGuest::Footprint VirtualGuest::footprint() {
  Integrate();
  return footprint_;
}

}  // namespace guestmm
