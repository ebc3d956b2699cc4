#ifndef GUESTMM_SRC_MACHINE_REAL_LEDGER_PARTS_H_
#define GUESTMM_SRC_MACHINE_REAL_LEDGER_PARTS_H_

// What stands in a real guest so that a HostLedger is kept of it.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/zone_lock_guard.h"
#include "src/host/accounting/discard_log.h"
#include "src/host/accounting/hold_times.h"

namespace guestmm {

// The time as whoever sets it says: for those who cannot afford to look.
class CoarseClock final : public Clock {
 public:
  Nanoseconds Now() const override {
    return Nanoseconds(now_.load(std::memory_order_relaxed));
  }
  void Set(Nanoseconds now) {
    now_.store(now.count(), std::memory_order_relaxed);
  }

 private:
  std::atomic<int64_t> now_{0};
};

// Guest RAM whose pages the guest's kernel clears before they are used.
class LedgerBacking final : public RamBacking {
 public:
  // All must outlive this.
  LedgerBacking(const GuestRam& ram, HostLedger& ledger, const Clock& clock)
      : RamBacking(ram), ram_(ram), ledger_(ledger), clock_(clock) {}

  void OnAllocated(int vcpu, std::optional<Pfn> pfn, Order order) override;
  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

  // Whether a page was ever found to have lost what was written to it.
  bool lost_any() const { return lost_.load(std::memory_order_relaxed); }

 private:
  const GuestRam& ram_;
  HostLedger& ledger_;
  const Clock& clock_;
  mutable std::atomic<bool> lost_{false};
};

// Passes discards on, and then enters them.
class LedgerHypervisor final : public Hypervisor {
 public:
  // The references must outlive this.
  LedgerHypervisor(std::unique_ptr<Hypervisor> next, HostLedger& ledger,
                   const Clock& clock)
      : next_(std::move(next)), ledger_(ledger), clock_(clock) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override { return next_->counters(); }

  std::vector<DiscardedUntil> discards() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::unique_ptr<Hypervisor> next_;
  HostLedger& ledger_;
  const Clock& clock_;
  mutable Mutex mutex_;
  std::vector<DiscardedUntil> discards_ ABSL_GUARDED_BY(mutex_);
};

// Measures the reporter's holds of zones' locks.
class HoldTimer final : public LockHoldObserver {
 public:
  // `clock` must outlive this.
  explicit HoldTimer(const Clock& clock) : clock_(clock) {}

  void OnLocked(const Zone& zone) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void OnUnlock(const Zone& zone, const ZoneWork& work) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());

  HoldTimes times() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const Clock& clock_;
  // A policy holds one lock at a time, on one thread at a time.
  Nanoseconds locked_at_{0};
  mutable SpinLock mutex_;
  HoldTimes times_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_REAL_LEDGER_PARTS_H_
