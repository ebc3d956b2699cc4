#include "guestmm/reporting/reporter.h"

#include <algorithm>
#include <string>
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
      pass_work_([this] { BeginPass(); }),
      work_([this] { Run(); }) {
  const size_t reports = policy_->reports();
  GUESTMM_CHECK(reports > 0 && reports <= kMaxReports)
      << "policy " << std::string(policy_->name()) << " wants " << reports
      << " reports in flight: must be 1 to " << kMaxReports;
  for (size_t i = 0; i < reports; ++i) {
    slots_.emplace_back(*this, policy_->capacity());
  }
}

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
    most_in_flight_ = std::min(slots_.size(), device.max_reports());
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
    return in_flight_ == 0;
  });
  workqueue_.CancelSync(pass_work_);
  workqueue_.CancelSync(work_);
  // Not earlier: the policy's marks are correct only while it is notified of
  // taken blocks.
  policy_->Disabling();
  allocator_.SetObserver(nullptr);
  policy_->Disable();
  LockHolder hold(state_);
  GUESTMM_CHECK(in_flight_ == 0) << "the device did not end a report";
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

void Reporter::ReportDone(Slot& slot, absl::Status status) {
  LockHolder hold(state_);
  GUESTMM_CHECK(slot.in_use && !slot.done)
      << "a report ended that was not in flight";
  slot.done = std::move(status);
  // Under the lock: as soon as it is released, a running pass may see the end
  // of the report, and the reporter may be destroyed.
  workqueue_.Queue(work_);
}

void Reporter::Run() {
  FinishBatches();
  while (EnterPass()) {
    if (SendBatches()) return;
    LockHolder hold(state_);
    in_pass_ = false;
    drained_ = false;
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

void Reporter::FinishBatches() {
  for (Slot& slot : slots_) {
    absl::Status status;
    {
      LockHolder hold(state_);
      if (!slot.done) continue;
      status = *std::exchange(slot.done, std::nullopt);
    }
    ReturnBatch(slot, status);
  }
}

Reporter::Slot* Reporter::TakeSlot() {
  LockHolder hold(state_);
  if (stopping_ || drained_ || in_flight_ == most_in_flight_) return nullptr;
  const auto free = std::find_if(slots_.begin(), slots_.end(),
                                 [](const Slot& slot) { return !slot.in_use; });
  // In the same hold as the check of stopping_, so that a later Disable waits
  // for this batch. And before Report, since the device may be done before that
  // returns.
  free->in_use = true;
  ++in_flight_;
  return &*free;
}

bool Reporter::SendBatches() {
  while (Slot* const slot = TakeSlot()) {
    if (!policy_->NextBatch(slot->list)) {
      LockHolder hold(state_);
      slot->in_use = false;
      --in_flight_;
      drained_ = true;
      break;
    }
    ReportingDevice* device = nullptr;
    {
      LockHolder hold(state_);
      device = device_;
      slot->blocks = slot->list.blocks().size();
      for (const IsolatedBlock& block : slot->list.blocks()) {
        slot->pages += block.order().pages();
      }
      for (const GpaRange& range : slot->list.ranges()) {
        slot->bytes += range.bytes;
      }
      in_flight_pages_ += slot->pages;
    }
    const absl::Status status = device->Report(slot->list.ranges(), *slot);
    if (!status.ok()) ReturnBatch(*slot, status);
  }
  LockHolder hold(state_);
  return in_flight_ > 0;
}

void Reporter::ReturnBatch(Slot& slot, const absl::Status& status) {
  policy_->ReturnBatch(slot.list, status.ok());
  LockHolder hold(state_);
  if (status.ok()) {
    ++counters_.reports;
    counters_.reported_blocks += slot.blocks;
    counters_.reported_bytes += slot.bytes;
  } else {
    ++counters_.failed_reports;
  }
  in_flight_pages_ -= slot.pages;
  slot.blocks = 0;
  slot.pages = PageCount(0);
  slot.bytes = 0;
  slot.in_use = false;
  // Last: from here on a Disable that waits for the batches may continue.
  --in_flight_;
}

}  // namespace guestmm
