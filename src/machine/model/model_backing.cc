#include "src/machine/model/model_backing.h"

namespace guestmm {

void ModelBacking::OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) {
  times_.Charge(vcpu, CostKind::kBase, costs_.allocate);
  locks_.OnVcpuUsedAllocator(vcpu, order);
  ChargeHooks(vcpu);
  if (!pfn) return;
  allocated_ += order.pages();
  ledger_.OnAllocated(*pfn, order);
}

void ModelBacking::OnFreed(int vcpu, Pfn pfn, Order order) {
  times_.Charge(vcpu, CostKind::kBase, costs_.free);
  locks_.OnVcpuUsedAllocator(vcpu, order);
  ChargeHooks(vcpu);
  allocated_ -= order.pages();
  ledger_.OnFreed(pfn, order);
}

void ModelBacking::Touch(int vcpu, Pfn pfn, Order order, uint64_t) {
  times_.Charge(
      vcpu, CostKind::kBase,
      costs_.guest_fault + costs_.guest_zero_page * order.pages().value());
  const uint64_t faults = ledger_.OnTouched(pfn, order, times_.Now(vcpu));
  if (faults == 0) return;
  const bool small = ledger_.granule() == Order(0);
  times_.Charge(vcpu, CostKind::kFaultBack,
                faults * (costs_.exit + (small ? costs_.host_fault_4k
                                               : costs_.host_fault_2m)));
  times_.Charge(vcpu, CostKind::kZeroing,
                faults * (small ? costs_.host_zero_4k : costs_.host_zero_2m));
}

std::optional<Pfn> ModelBacking::FindCorrupted(int vcpu, Pfn pfn, Order order,
                                               uint64_t) const {
  times_.Charge(vcpu, CostKind::kBase,
                costs_.read_page * order.pages().value());
  if (ledger_.ResidentPages(pfn, order) == order.pages()) return std::nullopt;
  while (ledger_.ResidentPages(pfn, Order(0)) > PageCount(0)) {
    pfn += PageCount(1);
  }
  return pfn;
}

void ModelBacking::ChargeHooks(int vcpu) {
  const uint64_t freed = hooks_.freed - charged_.freed;
  const uint64_t taken = hooks_.taken - charged_.taken;
  const uint64_t batches = hooks_.taken_batches - charged_.taken_batches;
  if (freed + taken + batches == 0) return;
  charged_ = hooks_;
  times_.Charge(vcpu, CostKind::kHook,
                freed * costs_.hook_freed + taken * costs_.hook_taken +
                    batches * costs_.hook_taken_batch);
}

}  // namespace guestmm
