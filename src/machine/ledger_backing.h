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

// Enters what vCPUs do in a HostLedger, and does it to guest RAM if there is
// any. Pages are cleared before they are written to, as a guest's kernel clears
// what it maps.
class LedgerBacking final : public Backing {
 public:
  // kTracked if frees are entered in the ledger too, so that it knows what is
  // in use: only where one thread uses this.
  enum class InUse : bool { kUntracked, kTracked };

  // All must outlive this. `ram` null: there are no contents, only the ledger.
  LedgerBacking(const GuestRam* ram, HostLedger& ledger, const Clock& clock,
                InUse in_use = InUse::kUntracked);

  void OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) override;
  void OnFreed(int vcpu, Pfn pfn, Order order) override;
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  // None without RAM.
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

  // Pages touched and not freed since. Always 0 unless tracked.
  PageCount in_use() const { return in_use_; }
  // DataLoss for the first page of `pages` that is in use and does not hold
  // what Touch wrote with `stamp`. Always OK unless tracked, and without RAM.
  absl::Status CheckInUse(PfnRange pages, uint64_t stamp) const;

  // True if FindCorrupted ever found a page.
  bool lost_any() const { return lost_.load(std::memory_order_relaxed); }

 private:
  const GuestRam* const ram_;
  std::optional<RamBacking> contents_;
  HostLedger& ledger_;
  const Clock& clock_;
  const InUse tracking_;
  PageCount in_use_;
  mutable std::atomic<bool> lost_{false};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_LEDGER_BACKING_H_
