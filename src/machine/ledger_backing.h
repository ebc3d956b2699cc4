#ifndef GUESTMM_SRC_MACHINE_LEDGER_BACKING_H_
#define GUESTMM_SRC_MACHINE_LEDGER_BACKING_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// Enters what vCPUs do to guest RAM in a HostLedger. Pages are cleared before
// they are written to, as a guest's kernel clears what it maps.
class LedgerBacking final : public Backing {
 public:
  // All must outlive this.
  LedgerBacking(const GuestRam& ram, HostLedger& ledger, const Clock& clock);

  void OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) override;
  void OnFreed(int vcpu, Pfn pfn, Order order) override;
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

  // DataLoss for the first page of `pages` that is in use, by the ledger, and
  // does not hold what Touch wrote with `stamp`.
  absl::Status CheckInUse(PfnRange pages, uint64_t stamp) const;

  // True if FindCorrupted ever found a page.
  bool lost_any() const { return lost_.load(std::memory_order_relaxed); }

 private:
  const GuestRam& ram_;
  RamBacking contents_;
  HostLedger& ledger_;
  const Clock& clock_;
  mutable std::atomic<bool> lost_{false};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_LEDGER_BACKING_H_
