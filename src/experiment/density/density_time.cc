#include "src/experiment/density/density_time.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/machine/backing.h"
#include "src/experiment/density/process_vm_backing.h"

namespace guestmm {

void RealDensityTime::Pass(Nanoseconds quiet) {
  if (quiet > Nanoseconds(0)) timer_.WaitUntil([] { return false; }, quiet);
}

// Guest RAM, which charges a vCPU's step for what it does.
class VirtualDensityTime::ChargingBacking final : public Backing {
 public:
  ChargingBacking(const GuestRam& ram, const CostModel& costs,
                  Nanoseconds& step)
      : ram_(MakeFastBacking(ram)), costs_(costs), step_(step) {}

  void OnAllocated(int, std::optional<Pfn>, Order) override {
    Charge(costs_.allocate);
  }
  void OnFreed(int, Pfn, Order) override { Charge(costs_.free); }
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override {
    Charge(costs_.guest_fault +
           order.pages().value() *
               (costs_.guest_zero_page + costs_.exit + costs_.host_fault_4k +
                costs_.host_zero_4k));
    ram_->Touch(vcpu, pfn, order, stamp);
  }
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override {
    Charge(order.pages().value() * costs_.read_page);
    return ram_->FindCorrupted(vcpu, pfn, order, stamp);
  }

 private:
  void Charge(uint64_t ns) const { step_ += Nanoseconds(ns); }

  const std::unique_ptr<Backing> ram_;
  const CostModel& costs_;
  Nanoseconds& step_;
};

// Passes discards on when the time that their report takes has passed.
class VirtualDensityTime::ChargingHypervisor final : public Hypervisor {
 public:
  ChargingHypervisor(std::unique_ptr<Hypervisor> next, const CostModel& costs,
                     VirtualTime& time)
      : next_(std::move(next)), costs_(costs), time_(time) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    uint64_t ns = costs_.report + costs_.kick + costs_.interrupt;
    for (const PfnRange& run : JoinRanges(ranges)) {
      ns += costs_.discard_call + run.pages().value() * costs_.discard_4k;
    }
    time_.Advance(Nanoseconds(ns));
    return next_->Discard(ranges);
  }
  DiscardCounters counters() const override { return next_->counters(); }

 private:
  const std::unique_ptr<Hypervisor> next_;
  const CostModel& costs_;
  VirtualTime& time_;
};

void VirtualDensityTime::Place(GuestOptions& guest) {
  guest.virtual_time = &time_;
  guest.make_backing = [this](const GuestRam& ram) {
    return std::make_unique<ChargingBacking>(ram, costs_, step_);
  };
  auto make = [given = std::move(guest.make_hypervisor),
               discard = guest.discard](
                  const GuestRam& ram) -> std::unique_ptr<Hypervisor> {
    if (given) return given(ram);
    // The default method fits any RAM.
    return *DiscardingHypervisor::Create(ram, discard);
  };
  guest.make_hypervisor = [this, make](const GuestRam& ram) {
    return std::make_unique<ChargingHypervisor>(make(ram), costs_, time_);
  };
}

void VirtualDensityTime::BeginSteps() {
  vcpu_ = time_.Now();
  step_ = Nanoseconds(0);
}

void VirtualDensityTime::Pass(Nanoseconds quiet) {
  vcpu_ += std::exchange(step_, Nanoseconds(0)) + quiet;
  if (vcpu_ > time_.Now()) time_.RunFor(vcpu_ - time_.Now());
}

}  // namespace guestmm
