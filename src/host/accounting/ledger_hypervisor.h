#ifndef GUESTMM_SRC_HOST_ACCOUNTING_LEDGER_HYPERVISOR_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_LEDGER_HYPERVISOR_H_

#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/accounting/discard_log.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/hypervisor.h"

namespace guestmm {

// Passes discards on to another hypervisor, and enters them in a HostLedger.
class LedgerHypervisor final : public Hypervisor {
 public:
  // The references must outlive this.
  LedgerHypervisor(std::unique_ptr<Hypervisor> next, HostLedger& ledger,
                   const Clock& clock)
      : next_(std::move(next)), ledger_(ledger), clock_(clock) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override { return next_->counters(); }

  // The total discarded so far, after each Discard.
  std::vector<DiscardedUntil> discards() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::unique_ptr<Hypervisor> next_;
  HostLedger& ledger_;
  const Clock& clock_;
  mutable Mutex mutex_;
  std::vector<DiscardedUntil> discards_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_LEDGER_HYPERVISOR_H_
