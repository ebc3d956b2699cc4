#include "guestmm/virtio/balloon_device.h"

#include <bit>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {

BalloonDevice::BalloonDevice(const GuestRam& ram, Hypervisor& hypervisor,
                             Workqueue& workqueue,
                             const BalloonDeviceOptions& options)
    : ram_(ram),
      hypervisor_(hypervisor),
      workqueue_(workqueue),
      options_(options),
      reporting_index_(
          ReportingQueueIndex(options.queue_numbering, DeviceFeatures())),
      work_([this] { HandleReports(); }),
      kick_(workqueue, work_) {
  GUESTMM_CHECK(std::has_single_bit(options_.reporting_queue_size) &&
                options_.reporting_queue_size <= kMaxVirtqueueSize)
      << "reporting queue of " << options_.reporting_queue_size
      << " descriptors: must be a power of 2 up to " << kMaxVirtqueueSize;
  batch_.reserve(options_.reporting_queue_size);
}

BalloonDevice::~BalloonDevice() {
  SetStatus(0);
  GUESTMM_CHECK(status() == 0)
      << "balloon device destroyed from inside a discard of its own";
  workqueue_.CancelSync(work_);
}

absl::Status BalloonDevice::SetDriverFeatures(uint64_t features) {
  LockHolder hold(mutex_);
  if ((status_ & kVirtioFeaturesOk) != 0) {
    return absl::FailedPreconditionError(
        "features accepted after FEATURES_OK was set");
  }
  if (const uint64_t unknown = features & ~DeviceFeatures(); unknown != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "features 0x%x accepted, which were not offered", unknown));
  }
  driver_features_ = features;
  return absl::OkStatus();
}

uint8_t BalloonDevice::status() const {
  LockHolder hold(mutex_);
  return status_;
}

void BalloonDevice::SetStatus(uint8_t status) {
  LockHolder hold(mutex_);
  if (status == 0) {
    if (!handler_) {
      ResetLocked();
      return;
    }
    resetting_ = true;
    if (*handler_ == std::this_thread::get_id()) return;
    while (resetting_) handler_left_.wait(mutex_);
    return;
  }
  if (resetting_) return;
  uint8_t wanted = status & static_cast<uint8_t>(~kVirtioNeedsReset);
  // A device of version 1 serves no driver that does not know it (§6.1).
  if ((driver_features_ & kVirtioFVersion1) == 0) {
    wanted &= static_cast<uint8_t>(~kVirtioFeaturesOk);
  }
  if (((wanted | status_) & kVirtioFeaturesOk) == 0) {
    wanted &= static_cast<uint8_t>(~kVirtioDriverOk);
  }
  status_ |= wanted;
}

uint16_t BalloonDevice::MaxQueueSize(uint16_t index) const {
  return index == reporting_index_ ? options_.reporting_queue_size : 0;
}

absl::StatusOr<Notifier*> BalloonDevice::SetUpQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used) {
  LockHolder hold(mutex_);
  if ((status_ & (kVirtioFeaturesOk | kVirtioDriverOk)) != kVirtioFeaturesOk) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "queue %d set up with device status 0x%x: not between FEATURES_OK and "
        "DRIVER_OK",
        index, status_));
  }
  if (index != reporting_index_ ||
      (driver_features_ & kBalloonFPageReporting) == 0) {
    return absl::NotFoundError(
        absl::StrFormat("the balloon has no queue %d", index));
  }
  if (layout.size > options_.reporting_queue_size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue %d of %d descriptors: the device takes %d",
                        index, layout.size, options_.reporting_queue_size));
  }
  absl::StatusOr<DeviceQueue> ring =
      DeviceQueue::Create(ram_, layout, ToVirtqueueFeatures(driver_features_));
  if (!ring.ok()) return ring.status();
  queue_ = std::make_unique<ReportingQueue>(
      ReportingQueue{.ring = *std::move(ring), .used = used});
  return &kick_;
}

void BalloonDevice::SetConfigNotifier(Notifier& config) {
  LockHolder hold(mutex_);
  config_ = &config;
}

BalloonDeviceCounters BalloonDevice::counters() const {
  LockHolder hold(mutex_);
  return counters_;
}

absl::Status BalloonDevice::CheckInvariants() const {
  LockHolder hold(mutex_);
  return queue_ == nullptr ? absl::OkStatus() : queue_->ring.CheckInvariants();
}

void BalloonDevice::HandleReports() {
  std::unique_ptr<ReportingQueue> queue;
  {
    LockHolder hold(mutex_);
    constexpr uint8_t kRunning =
        kVirtioDriverOk | kVirtioNeedsReset | kVirtioFailed;
    // No queue: not set up; or, in virtual time, this work ran while a discard
    // of its own, further up the stack, let others run.
    if (queue_ == nullptr || (status_ & kRunning) != kVirtioDriverOk) return;
    queue = std::move(queue_);
    handler_ = std::this_thread::get_id();
  }

  const Round round = RunRound(*queue);
  if (round == Round::kBroken) {
    ++tally_.broken_queues;
    Notifier* config = nullptr;
    {
      LockHolder hold(mutex_);
      counters_ = tally_;
      status_ |= kVirtioNeedsReset;
      config = config_;
    }
    // §2.1.2: with DRIVER_OK set, NEEDS_RESET comes with a notification.
    if (config != nullptr) config->Notify();
  }

  {
    LockHolder hold(mutex_);
    queue_ = std::move(queue);
    handler_.reset();
    if (resetting_) {
      ResetLocked();
      resetting_ = false;
      handler_left_.notify_all();
      return;
    }
  }
  if (round == Round::kMore) workqueue_.Queue(work_);
}

BalloonDevice::Round BalloonDevice::RunRound(ReportingQueue& queue) {
  DeviceQueue& ring = queue.ring;
  // While this looks at the ring, kicks tell it nothing.
  ring.DisableNotifications();
  for (uint16_t handled = 0; handled < ring.size(); ++handled) {
    const absl::StatusOr<std::optional<DescriptorChain>> chain = ring.Pop();
    if (!chain.ok()) return Round::kBroken;
    if (!chain->has_value()) {
      return ring.EnableNotifications() ? Round::kMore : Round::kDry;
    }
    HandleReport(**chain);
    if (!CountAcknowledgement()) return Round::kStopped;
    // used.len 0: nothing was written (§5.5.6.7 has no word for "discarded").
    ring.Push((*chain)->head, 0);
    if (ring.NeedsNotification()) queue.used.Notify();
  }
  return Round::kMore;
}

void BalloonDevice::HandleReport(const DescriptorChain& chain) {
  ++tally_.reports;
  if (chain.table_fault != TableFault::kNone) {
    ++tally_.skipped_tables[static_cast<size_t>(chain.table_fault)];
  }
  batch_.clear();
  uint64_t bytes = 0;
  for (const VirtqDesc& descriptor : chain.descriptors) {
    const std::optional<GpaRange> range = CheckDescriptor(descriptor);
    if (!range) continue;
    batch_.push_back(*range);
    bytes += range->bytes;
  }
  if (batch_.empty()) return;
  tally_.ranges += batch_.size();
  tally_.bytes += bytes;
  if (!hypervisor_.Discard(batch_).ok()) ++tally_.discard_errors;
}

std::optional<GpaRange> BalloonDevice::CheckDescriptor(
    const VirtqDesc& descriptor) {
  const GpaRange range = {Gpa(descriptor.addr), descriptor.len};
  if ((descriptor.flags & kVirtqDescIndirect) != 0) {
    ++tally_.skipped_indirect;
  } else if ((descriptor.flags & kVirtqDescWrite) == 0) {
    ++tally_.skipped_readable;
  } else if (range.bytes == 0) {
    ++tally_.skipped_empty;
  } else if (!range.gpa.IsAligned(ram_.discard_granule()) ||
             range.bytes % ram_.discard_granule() != 0) {
    ++tally_.skipped_unaligned;
  } else if (ram_.Translate(range)) {
    return range;
  } else if (ram_.Translate({range.gpa, 1})) {
    ++tally_.skipped_across_region;
  } else {
    ++tally_.skipped_outside_ram;
  }
  return std::nullopt;
}

bool BalloonDevice::CountAcknowledgement() {
  LockHolder hold(mutex_);
  if (!resetting_) ++tally_.acknowledged;
  counters_ = tally_;
  return !resetting_;
}

void BalloonDevice::ResetLocked() {
  status_ = 0;
  driver_features_ = 0;
  config_ = nullptr;
  queue_.reset();
}

}  // namespace guestmm
