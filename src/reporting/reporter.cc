#include "guestmm/reporting/reporter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"

namespace guestmm {

Reporter::Reporter(PageAllocator& allocator, Workqueue& workqueue,
                   std::unique_ptr<ReportingPolicy> policy,
                   LockHoldObserver* holds)
    : allocator_(allocator),
      workqueue_(workqueue),
      policy_(std::move(policy)),
      zones_(ReportableZones(allocator.zones(), holds)),
      list_(policy_->capacity()),
      pass_work_([this] { BeginPass(); }),
      work_([this] { Run(); }) {}

Reporter::~Reporter() {
  LockHolder control(control_);
  DisableLocked();
  workqueue_.CancelSync(pass_work_);
  workqueue_.CancelSync(work_);
}

absl::Status Reporter::Enable(ReportingDevice& device) {
  LockHolder control(control_);
  {
    LockHolder hold(state_);
    if (device_ != nullptr) {
      return absl::AlreadyExistsError(
          "reporting is enabled for a device already");
    }
  }
  if (device.max_report_entries() < policy_->capacity()) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy ", std::string(policy_->name()), " reports up to ",
                     policy_->capacity(), " blocks at once; the device takes ",
                     device.max_report_entries()));
  }
  if (policy_->min_order() > allocator_.max_order()) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy ", std::string(policy_->name()), " reports order ",
                     policy_->min_order().value(),
                     " and above; the largest block has order ",
                     allocator_.max_order().value()));
  }
  absl::Status status =
      policy_->Enable({.zones = std::span(zones_), .clock = workqueue_});
  if (!status.ok()) return status;
  {
    LockHolder hold(state_);
    device_ = &device;
    look_ahead_ = true;
  }
  allocator_.SetObserver(this, policy_->min_order(), policy_->taken_blocks());
  workqueue_.Queue(work_);  // for the first NextPass
  return absl::OkStatus();
}

absl::Status Reporter::Disable(ReportingDevice& device) {
  LockHolder control(control_);
  {
    LockHolder hold(state_);
    if (device_ != &device) {
      return absl::NotFoundError("reporting is not enabled for this device");
    }
  }
  DisableLocked();
  return absl::OkStatus();
}

void Reporter::DisableLocked() {
  {
    LockHolder hold(state_);
    if (device_ == nullptr) return;
    stopping_ = true;
  }
  workqueue_.WaitUntil([this] {
    LockHolder hold(state_);
    return !in_flight_;
  });
  workqueue_.CancelSync(pass_work_);
  workqueue_.CancelSync(work_);
  // Not earlier: the policy's marks are correct only while it is notified of
  // taken blocks.
  policy_->Disabling();
  allocator_.SetObserver(nullptr);
  policy_->Disable();
  LockHolder hold(state_);
  GUESTMM_CHECK(!in_flight_) << "the device did not end a report";
  device_ = nullptr;
  stopping_ = false;
  asked_ = false;
  due_ = false;
  look_ahead_ = false;
}

bool Reporter::AtRest() const {
  LockHolder hold(state_);
  return !asked_ && !in_pass_ && !look_ahead_;
}

ReporterCounters Reporter::counters() const {
  LockHolder hold(state_);
  return counters_;
}

PageCount Reporter::in_flight_pages() const {
  LockHolder hold(state_);
  return in_flight_pages_;
}

// The lock of the ReportableZone is the zone's own, which the analysis cannot
// see.
bool Reporter::OnBlockFreed(Zone& zone, Pfn pfn,
                            Order order) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return policy_->BlockFreed(Reportable(zone), pfn, order);
}

void Reporter::OnBlocksTaken(Zone& zone, std::span<const PfnRange> runs,
                             Order order) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  policy_->BlocksTaken(Reportable(zone), runs, order);
}

void Reporter::OnMemoryOnline(Zone& zone, PfnRange range) {
  policy_->MemoryOnline(Reportable(zone), range);
}

void Reporter::OnMemoryOffline(Zone& zone, PfnRange range) {
  policy_->MemoryOffline(Reportable(zone), range);
}

void Reporter::Wake() { SchedulePass(policy_->delay()); }

void Reporter::SchedulePass(Nanoseconds delay) {
  {
    LockHolder hold(state_);
    if (device_ == nullptr || stopping_) return;
    asked_ = true;
  }
  workqueue_.Queue(pass_work_, delay);
}

void Reporter::BeginPass() {
  {
    LockHolder hold(state_);
    if (!asked_) return;
    due_ = true;
  }
  Run();
}

void Reporter::ReportDone(absl::Status status) {
  LockHolder hold(state_);
  GUESTMM_CHECK(in_flight_ && !done_)
      << "a report ended that was not in flight";
  done_ = std::move(status);
  // Under the lock: as soon as it is released, a running pass may see the end
  // of the report, and the reporter may be destroyed.
  workqueue_.Queue(work_);
}

void Reporter::Run() {
  if (!FinishBatch()) return;
  while (EnterPass()) {
    if (SendBatch()) return;
    LockHolder hold(state_);
    in_pass_ = false;
    look_ahead_ = true;
  }
}

bool Reporter::EnterPass() {
  {
    LockHolder hold(state_);
    if (in_pass_) return true;
    if (device_ == nullptr || stopping_) return false;
    if (due_) {
      asked_ = false;
      due_ = false;
      in_pass_ = true;
      ++counters_.passes;
      return true;
    }
    if (!look_ahead_) return false;
  }
  const std::optional<Nanoseconds> next = policy_->NextPass();
  if (next) SchedulePass(*next);
  LockHolder hold(state_);
  look_ahead_ = false;
  return false;
}

bool Reporter::FinishBatch() {
  absl::Status status;
  {
    LockHolder hold(state_);
    if (!in_flight_) return true;
    if (!done_) return false;
    status = *std::exchange(done_, std::nullopt);
  }
  ReturnBatch(status);
  return true;
}

bool Reporter::SendBatch() {
  while (true) {
    ReportingDevice* device = nullptr;
    {
      LockHolder hold(state_);
      if (stopping_) return false;
      device = device_;
      // Set in the same hold as the check of stopping_, so that a later Disable
      // waits for this batch. And before Report, since the device may be done
      // before that returns.
      in_flight_ = true;
    }
    if (!policy_->NextBatch(list_)) {
      LockHolder hold(state_);
      in_flight_ = false;
      return false;
    }
    {
      LockHolder hold(state_);
      in_flight_blocks_ = list_.blocks().size();
      for (const IsolatedBlock& block : list_.blocks()) {
        in_flight_pages_ += block.order().pages();
      }
      for (const GpaRange& range : list_.ranges()) {
        in_flight_bytes_ += range.bytes;
      }
    }
    const absl::Status status = device->Report(list_.ranges(), *this);
    if (status.ok()) return true;
    ReturnBatch(status);
  }
}

void Reporter::ReturnBatch(const absl::Status& status) {
  policy_->ReturnBatch(list_, status.ok());
  LockHolder hold(state_);
  if (status.ok()) {
    ++counters_.reports;
    counters_.reported_blocks += in_flight_blocks_;
    counters_.reported_bytes += in_flight_bytes_;
  } else {
    ++counters_.failed_reports;
  }
  in_flight_blocks_ = 0;
  in_flight_pages_ = PageCount(0);
  in_flight_bytes_ = 0;
  // Last: from here on a Disable that waits for the batch may continue.
  in_flight_ = false;
}

}  // namespace guestmm
