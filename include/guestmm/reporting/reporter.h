#ifndef GUESTMM_REPORTING_REPORTER_H_
#define GUESTMM_REPORTING_REPORTER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/reporting/reporting_device.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/scatterlist.h"

namespace GUESTMM_EXPORT guestmm {

// Totals since the reporter was created.
struct ReporterCounters {
  uint64_t passes = 0;
  uint64_t reports = 0;  // acknowledged
  uint64_t reported_blocks = 0;
  uint64_t reported_bytes = 0;
  uint64_t failed_reports = 0;  // refused by the device, or reset
};

// Carries free blocks from the allocator to a device and back: run, submit,
// complete, return, next. It never blocks. Each step is an event on its
// workqueue, so it runs the same on a thread and in virtual time.
//
//   hook ─▶ Wake ─▶ (delay) ─▶ [ NextBatch ─▶ device.Report ] ...
//      ReportDone ─▶ [ ReturnBatch ─▶ NextBatch ─▶ device.Report ] ...
//      the pass ends ─▶ NextPass ─▶ (delay) ─▶ ...
//
// As many reports are in flight as the policy wants and the device takes, each
// in a slot of its own, which is its client.
class Reporter final : public FreeBlockObserver {
 public:
  // The arguments must outlive this, and this must outlive every call into the
  // allocator that began while reporting was enabled. `holds` is notified of
  // the policy's holds of zones' locks; null: there is none.
  Reporter(PageAllocator& allocator, Workqueue& workqueue,
           std::unique_ptr<ReportingPolicy> policy,
           LockHoldObserver* holds = nullptr);
  // Disables reporting.
  ~Reporter() override;

  // Starts reporting to `device`. AlreadyExists if reporting is enabled: one of
  // two racing calls wins (v12 patch 1/2, page_reporting_enable: -EBUSY).
  // InvalidArgument if the device takes fewer ranges in a report than the
  // policy sends, or the policy's order is above the allocator's. Otherwise the
  // error of the policy's Enable.
  absl::Status Enable(ReportingDevice& device) ABSL_LOCKS_EXCLUDED(control_);

  // Stops reporting to `device`, after the batches in flight, if any, are
  // returned. NotFound, with no effect, unless reporting is enabled for this
  // device.
  absl::Status Disable(ReportingDevice& device) ABSL_LOCKS_EXCLUDED(control_);

  // True while no pass is due or running.
  bool AtRest() const ABSL_LOCKS_EXCLUDED(state_);

  const ReportingPolicy& policy() const { return *policy_; }
  ReporterCounters counters() const ABSL_LOCKS_EXCLUDED(state_);
  // Pages of the blocks in the outstanding reports.
  PageCount in_flight_pages() const ABSL_LOCKS_EXCLUDED(state_);

  // FreeBlockObserver:
  bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void OnBlocksTaken(Zone& zone, std::span<const PfnRange> runs,
                     Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void OnMemoryOnline(Zone& zone, PfnRange range) override;
  void OnMemoryOffline(Zone& zone, PfnRange range) override;
  void Wake() override ABSL_LOCKS_EXCLUDED(state_);

 private:
  // A report, from before its batch is made until its blocks are returned.
  struct Slot final : ReportingDevice::Client {
    Slot(Reporter& its_reporter, size_t capacity)
        : reporter(its_reporter), list(capacity) {}
    void ReportDone(absl::Status status) override {
      reporter.ReportDone(*this, std::move(status));
    }

    Reporter& reporter;
    // Used only by the work, and where the work cannot run.
    Scatterlist list;
    // The rest is guarded by the reporter's state_.
    bool in_use = false;
    std::optional<absl::Status> done;
    // The sizes of its batch.
    uint64_t blocks = 0;
    PageCount pages = {};
    uint64_t bytes = 0;
  };

  void ReportDone(Slot& slot, absl::Status status) ABSL_LOCKS_EXCLUDED(state_);

  // Makes a pass due `delay` from now, unless one is due already.
  void SchedulePass(Nanoseconds delay) ABSL_LOCKS_EXCLUDED(state_);
  ReportableZone& Reportable(const Zone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }

  // The works: BeginPass runs when a pass falls due; Run continues after the
  // last event.
  void BeginPass() ABSL_LOCKS_EXCLUDED(state_);
  void Run() ABSL_LOCKS_EXCLUDED(state_);
  // True if a pass is running, or is due and begins now. Otherwise schedules
  // the next one, if the policy wants one.
  bool EnterPass() ABSL_LOCKS_EXCLUDED(state_);
  // Returns the batches whose reports have ended.
  void FinishBatches() ABSL_LOCKS_EXCLUDED(state_);
  // Sends batches while the pass has more and a slot is free. True if one is in
  // flight; false if the pass has ended.
  bool SendBatches() ABSL_LOCKS_EXCLUDED(state_);
  // A free slot, which is in use from now on; null if there is none, or the
  // pass has no more batches.
  Slot* TakeSlot() ABSL_LOCKS_EXCLUDED(state_);
  // Hands the slot's batch to the policy to return it. `status` is how its
  // report ended.
  void ReturnBatch(Slot& slot, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(state_);
  void DisableLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_);

  PageAllocator& allocator_;
  Workqueue& workqueue_;
  const std::unique_ptr<ReportingPolicy> policy_;
  // By Zone::index().
  std::vector<ReportableZone> zones_;

  // Serializes Enable and Disable (v12's page_reporting_mutex). Acquired before
  // all locks of the allocator.
  Mutex control_;

  // A leaf, except for the workqueue's own lock.
  mutable Mutex state_;
  ReportingDevice* device_ ABSL_GUARDED_BY(state_) = nullptr;
  bool stopping_ ABSL_GUARDED_BY(state_) = false;
  // A pass is requested; and it has fallen due.
  bool asked_ ABSL_GUARDED_BY(state_) = false;
  bool due_ ABSL_GUARDED_BY(state_) = false;
  bool in_pass_ ABSL_GUARDED_BY(state_) = false;
  // NextPass has not been called since reporting was enabled, or since the last
  // pass.
  bool look_ahead_ ABSL_GUARDED_BY(state_) = false;
  // NextBatch has said that the pass has no more.
  bool drained_ ABSL_GUARDED_BY(state_) = false;
  // Slots in use, and the most that may be.
  size_t in_flight_ ABSL_GUARDED_BY(state_) = 0;
  size_t most_in_flight_ ABSL_GUARDED_BY(state_) = 0;
  PageCount in_flight_pages_ ABSL_GUARDED_BY(state_);
  ReporterCounters counters_ ABSL_GUARDED_BY(state_);

  // As many as the policy wants. Never moved, since devices point to them.
  std::deque<Slot> slots_;
  Work pass_work_;
  Work work_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_REPORTER_H_
