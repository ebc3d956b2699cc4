#include "guestmm/virtio/balloon_driver.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// How often to look whether a reset is complete, as Linux's PCI transport does.
constexpr Nanoseconds kResetPoll = std::chrono::milliseconds(1);

constexpr uint64_t kWantedFeatures = kVirtioFVersion1 | kBalloonFPageReporting;

absl::Status DeviceWasReset() {
  return absl::UnavailableError(
      "the balloon device was reset before it acknowledged");
}

}  // namespace

absl::StatusOr<std::unique_ptr<BalloonDriver>> BalloonDriver::Create(
    VirtioDevice& device, const GuestRam& ram, PageAllocator& allocator,
    Workqueue& workqueue, const BalloonDriverOptions& options) {
  std::unique_ptr<BalloonDriver> driver(
      new BalloonDriver(device, allocator, workqueue, options));
  if (absl::Status status = driver->Start(ram); !status.ok()) {
    driver->Remove();
    device.SetStatus(kVirtioFailed);
    return status;
  }
  return driver;
}

BalloonDriver::BalloonDriver(VirtioDevice& device, PageAllocator& allocator,
                             Workqueue& workqueue,
                             const BalloonDriverOptions& options)
    : device_(device),
      allocator_(allocator),
      workqueue_(workqueue),
      options_(options),
      used_work_([this] { HandleUsed(); }),
      config_work_([this] { HandleConfigChange(); }),
      used_(workqueue, used_work_),
      config_(workqueue, config_work_) {}

BalloonDriver::~BalloonDriver() { Remove(); }

absl::Status BalloonDriver::Start(const GuestRam& ram) {
  if (device_.device_id() != kBalloonDeviceId) {
    return absl::FailedPreconditionError(
        absl::StrFormat("device %d is not a memory balloon, which is %d",
                        device_.device_id(), kBalloonDeviceId));
  }
  device_.SetStatus(0);
  if (device_.status() != 0) {
    return absl::FailedPreconditionError(
        "the balloon is still in the reset of its last driver");
  }
  device_.SetStatus(kVirtioAcknowledge);
  device_.SetStatus(kVirtioAcknowledge | kVirtioDriver);
  const uint64_t offered = device_.DeviceFeatures();
  if ((offered & kWantedFeatures) != kWantedFeatures) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the balloon offers features 0x%x: VERSION_1 and PAGE_REPORTING are "
        "0x%x",
        offered, kWantedFeatures));
  }
  const uint64_t features =
      kWantedFeatures | (offered & ToFeatureBits(options_.queue_features));
  if (absl::Status status = device_.SetDriverFeatures(features); !status.ok()) {
    return status;
  }
  constexpr uint8_t kAgreed =
      kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
  device_.SetStatus(kAgreed);
  if ((device_.status() & kVirtioFeaturesOk) == 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the balloon refuses features 0x%x, all of which it offers", features));
  }

  const uint16_t index = ReportingQueueIndex(options_.queue_numbering, offered);
  queue_size_ =
      std::min(options_.reporting_queue_size, device_.MaxQueueSize(index));
  if (queue_size_ == 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the balloon has no reporting queue %d", index));
  }
  DriverQueueOptions ring = {.features = ToVirtqueueFeatures(features)};
  const bool has_table = ring.features.indirect && queue_size_ > 1;
  const absl::StatusOr<VirtqueueLayout> layout = AllocateQueue(has_table);
  if (!layout.ok()) return layout.status();
  // One, since one report is out at a time (R3).
  if (has_table) ring.tables = LayOutTables(*layout, 1, queue_size_);
  absl::StatusOr<DriverQueue> queue = DriverQueue::Create(ram, *layout, ring);
  if (!queue.ok()) return queue.status();
  {
    LockHolder hold(lock_);
    queue_ = *std::move(queue);
  }
  device_.SetConfigNotifier(config_);
  const absl::StatusOr<Notifier*> kick =
      device_.SetUpQueue(index, *layout, used_);
  if (!kick.ok()) return kick.status();
  kick_ = *kick;
  device_.SetStatus(kAgreed | kVirtioDriverOk);
  return absl::OkStatus();
}

absl::StatusOr<VirtqueueLayout> BalloonDriver::AllocateQueue(bool has_table) {
  const uint64_t bytes = has_table ? VirtqueueBytes(queue_size_, 1, queue_size_)
                                   : VirtqueueBytes(queue_size_);
  int order = 0;
  while (Order(order).bytes() < bytes) ++order;
  queue_order_ = Order(order);
  if (queue_order_ <= allocator_.max_order()) {
    queue_pfn_ = allocator_.Allocate(options_.cpu, queue_order_);
  }
  if (!queue_pfn_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no block of order %d for a reporting queue of %d",
                        order, queue_size_));
  }
  return LayOutVirtqueue(ToGpa(*queue_pfn_), queue_size_);
}

absl::Status BalloonDriver::Report(std::span<const GpaRange> ranges,
                                   Client& client) {
  bool needs_kick = false;
  {
    LockHolder hold(lock_);
    if (state_ != State::kReady) {
      return absl::FailedPreconditionError(
          state_ == State::kRemoved ? "the balloon driver was removed"
                                    : "the balloon device was broken");
    }
    GUESTMM_CHECK(client_ == nullptr) << "a report while one is outstanding";
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= queue_size_)
        << "a report of " << ranges.size() << " entries; the most is "
        << queue_size_;
    // The one token needs no value: client_ says whose report it is.
    if (absl::Status status = queue_->Add({}, ranges, /*token=*/0);
        !status.ok()) {
      return status;
    }
    client_ = &client;
    needs_kick = queue_->NeedsKick();
    if (needs_kick) ++kicks_;
  }
  if (needs_kick) kick_->Notify();
  return absl::OkStatus();
}

uint64_t BalloonDriver::kicks() const {
  LockHolder hold(lock_);
  return kicks_;
}

void BalloonDriver::Remove() {
  {
    LockHolder hold(lock_);
    if (state_ == State::kRemoved) return;
    state_ = State::kRemoved;
  }
  device_.SetStatus(0);
  GUESTMM_CHECK(device_.status() == 0)
      << "balloon driver removed from inside a discard of its device";
  // The device notifies no more, so neither becomes due again.
  workqueue_.CancelSync(used_work_);
  workqueue_.CancelSync(config_work_);
  EndReport(DeviceWasReset());
  {
    LockHolder hold(lock_);
    queue_.reset();
  }
  if (queue_pfn_) allocator_.Free(options_.cpu, *queue_pfn_, queue_order_);
}

absl::Status BalloonDriver::CheckInvariants() const {
  LockHolder hold(lock_);
  if (!queue_) return absl::OkStatus();
  if (state_ == State::kReady &&
      queue_->outstanding() != (client_ == nullptr ? 0 : 1)) {
    return absl::InternalError(
        absl::StrFormat("R3: %d chains out, with %s report outstanding",
                        queue_->outstanding(), client_ ? "a" : "no"));
  }
  return queue_->CheckInvariants();
}

void BalloonDriver::HandleUsed() {
  bool is_broken = false;
  {
    LockHolder hold(lock_);
    if (state_ != State::kReady) return;
    // There is one at most (R3): no need to look for more.
    const absl::StatusOr<std::optional<DriverQueue::Used>> used =
        queue_->GetUsed();
    if (used.ok() && !used->has_value()) return;  // notified for nothing
    is_broken = !used.ok();
    if (is_broken) state_ = State::kBroken;
  }
  if (is_broken) {
    // What it did to the report is anyone's guess: reset it first.
    workqueue_.Queue(config_work_);
    return;
  }
  EndReport(absl::OkStatus());
}

void BalloonDriver::HandleConfigChange() {
  const bool needs_reset = (device_.status() & kVirtioNeedsReset) != 0;
  bool is_first = false;
  {
    LockHolder hold(lock_);
    if (state_ == State::kRemoved) return;
    if (state_ == State::kReady && !needs_reset) return;
    is_first = std::exchange(state_, State::kReset) != State::kReset;
  }
  if (is_first) device_.SetStatus(0);
  if (device_.status() != 0) {
    workqueue_.Queue(config_work_, kResetPoll);
    return;
  }
  EndReport(DeviceWasReset());
}

void BalloonDriver::EndReport(const absl::Status& status) {
  Client* client = nullptr;
  {
    LockHolder hold(lock_);
    client = std::exchange(client_, nullptr);
  }
  if (client != nullptr) client->ReportDone(status);
}

}  // namespace guestmm
