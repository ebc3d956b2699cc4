#include "src/machine/ledger_backing.h"

#include <cstring>
#include <sstream>

#include "guestmm/base/check.h"

namespace guestmm {

LedgerBacking::LedgerBacking(const GuestRam& ram, HostLedger& ledger,
                             const Clock& clock)
    : ram_(ram), contents_(ram), ledger_(ledger), clock_(clock) {}

void LedgerBacking::OnAllocated(int, std::optional<Pfn> pfn, Order order) {
  if (pfn) ledger_.OnAllocated(*pfn, order);
}

void LedgerBacking::OnFreed(int, Pfn pfn, Order order) {
  ledger_.OnFreed(pfn, order);
}

void LedgerBacking::Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) {
  ledger_.OnTouched(pfn, order, clock_.Now());
  {
    const auto block =
        ram_.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
    GUESTMM_CHECK(block.has_value()) << pfn << " is not in guest RAM";
    std::memset(block->bytes().data(), 0, order.bytes());
  }
  contents_.Touch(vcpu, pfn, order, stamp);
}

std::optional<Pfn> LedgerBacking::FindCorrupted(int vcpu, Pfn pfn, Order order,
                                                uint64_t stamp) const {
  const std::optional<Pfn> found =
      contents_.FindCorrupted(vcpu, pfn, order, stamp);
  if (found) lost_.store(true, std::memory_order_relaxed);
  return found;
}

absl::Status LedgerBacking::CheckInUse(PfnRange pages, uint64_t stamp) const {
  for (Pfn page = pages.start; page < pages.end; page += PageCount(1)) {
    if (ledger_.InUse(page) && FindCorrupted(0, page, Order(0), stamp)) {
      std::ostringstream text;
      text << page << " was in use, and lost its contents";
      return absl::DataLossError(text.str());
    }
  }
  return absl::OkStatus();
}

}  // namespace guestmm
