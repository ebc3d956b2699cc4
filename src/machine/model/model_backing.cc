#include "src/machine/model/model_backing.h"

namespace guestmm {

[[gnu::always_inline]] inline void ModelBacking::ChargeOperation(
    int vcpu, uint64_t base) {
  times_.Charge(vcpu, CostKind::kBase, base);
  locks_.OnVcpuUsedAllocator(vcpu);
  if (const uint64_t hook = hooks_.Take(); hook > 0) {
    times_.Charge(vcpu, CostKind::kHook, hook);
  }
}

void ModelBacking::OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) {
  ChargeOperation(vcpu, costs_.allocate);
  if (!pfn) return;
  allocated_ += order.pages();
  ledger_.OnAllocated(*pfn, order);
}

void ModelBacking::OnFreed(int vcpu, Pfn pfn, Order order) {
  ChargeOperation(vcpu, costs_.free);
  allocated_ -= order.pages();
  ledger_.OnFreed(pfn, order);
}

void ModelBacking::Touch(int vcpu, Pfn pfn, Order order, uint64_t) {
  times_.Charge(
      vcpu, CostKind::kBase,
      costs_.guest_fault + costs_.guest_zero_page * order.pages().value());
  if (ledger_.OnTouchedResident(pfn, order)) return;
  const HostMappings faults = ledger_.OnTouched(pfn, order, times_.Now(vcpu));
  if (faults == HostMappings{}) return;
  const bool huge = ledger_.granule() == kPageblockOrder;
  const uint64_t map = huge ? costs_.host_fault_2m : costs_.host_fault_4k;
  const uint64_t zero =
      huge ? costs_.host_zero_2m
           : costs_.host_zero_4k * ledger_.granule().pages().value();
  times_.Charge(vcpu, CostKind::kFaultBack,
                faults.granules * (costs_.exit + map) +
                    faults.pages * (costs_.exit + costs_.host_fault_4k));
  times_.Charge(vcpu, CostKind::kZeroing,
                faults.granules * zero + faults.pages * costs_.host_zero_4k);
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

}  // namespace guestmm
