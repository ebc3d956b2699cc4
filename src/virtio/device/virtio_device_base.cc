#include "guestmm/virtio/device/virtio_device_base.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/base/spin_wait.h"

namespace guestmm {
namespace {

// The status bits that end when the device does not agree to the features.
constexpr uint8_t kFeaturesAgreed = kVirtioFeaturesOk | kVirtioDriverOk;

}  // namespace

VirtioDeviceBase::VirtioDeviceBase(const GuestRam& ram, Workqueue& workqueue,
                                   uint64_t features, uint16_t queues,
                                   size_t config_bytes, Nanoseconds max_poll)
    : ram_(ram),
      workqueue_(workqueue),
      features_(features | kVirtioFVersion1),
      max_poll_(max_poll),
      config_(config_bytes),
      queues_(queues),
      work_([this] { Handle(); }),
      resume_([this] { AskForHandling(); }) {
  GUESTMM_CHECK(queues <= 32) << "a device of " << queues << " queues";
  for (uint16_t index = 0; index < queues; ++index) {
    kicks_.push_back(std::make_unique<Kick>(*this, index));
  }
}

VirtioDeviceBase::~VirtioDeviceBase() {
  GUESTMM_CHECK(status() == 0) << "device destroyed before ShutDown";
}

void VirtioDeviceBase::ShutDown() {
  SetStatus(0);
  GUESTMM_CHECK(status() == 0)
      << "device destroyed from inside its own handler";
  workqueue_.CancelSync(resume_);
  workqueue_.CancelSync(work_);
}

absl::Status VirtioDeviceBase::SetDriverFeatures(uint64_t features) {
  LockHolder hold(mutex_);
  if (features == driver_features_) return absl::OkStatus();
  if (HasQueues()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("features 0x%x: must stay 0x%x while a queue is set up",
                        features, driver_features_));
  }
  if (const uint64_t unknown = features & ~features_; unknown != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("features 0x%x accepted, but not offered", unknown));
  }
  driver_features_ = features;
  if (!AgreesTo(features)) status_ &= static_cast<uint8_t>(~kFeaturesAgreed);
  return absl::OkStatus();
}

bool VirtioDeviceBase::AgreesTo(uint64_t features) const {
  // The device requires VERSION_1 (§6.2).
  return (features & kVirtioFVersion1) != 0 && Suffices(features);
}

uint8_t VirtioDeviceBase::status() const {
  LockHolder hold(mutex_);
  return status_;
}

std::optional<VirtioFault> VirtioDeviceBase::fault() const {
  LockHolder hold(mutex_);
  return fault_;
}

void VirtioDeviceBase::SetStatus(uint8_t status) {
  bool is_started = false;
  {
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
    if (!AgreesTo(driver_features_)) {
      wanted &= static_cast<uint8_t>(~kVirtioFeaturesOk);
    }
    if (((wanted | status_) & kVirtioFeaturesOk) == 0) {
      wanted &= static_cast<uint8_t>(~kVirtioDriverOk);
    }
    is_started = (wanted & ~status_ & kVirtioDriverOk) != 0;
    status_ |= wanted;
  }
  // Handle requests made before the driver was ready.
  if (is_started) AskForHandling();
}

uint32_t VirtioDeviceBase::ConfigGeneration() const {
  LockHolder hold(mutex_);
  return generation_;
}

absl::Status VirtioDeviceBase::ReadConfig(uint32_t offset,
                                          std::span<std::byte> bytes) const {
  LockHolder hold(mutex_);
  absl::Status status = CheckConfigRange(offset, bytes.size(), config_.size());
  if (status.ok() && !bytes.empty()) {
    std::memcpy(bytes.data(), config_.data() + offset, bytes.size());
  }
  return status;
}

absl::Status VirtioDeviceBase::WriteConfig(uint32_t offset,
                                           std::span<const std::byte> bytes) {
  LockHolder hold(mutex_);
  absl::Status status = CheckConfigRange(offset, bytes.size(), config_.size());
  if (!status.ok()) return status;
  const uint64_t end = uint64_t{offset} + bytes.size();
  std::vector<const ConfigField*> written;
  for (const ConfigField& field : WritableConfig()) {
    if (field.offset + field.bytes <= offset || end <= field.offset) continue;
    if (field.offset < offset || end < field.offset + field.bytes) {
      ConfigWritten(field, /*accepted=*/false);
      return absl::InvalidArgumentError(absl::StrFormat(
          "configuration write of %d bytes at %d: must have all of %s or none",
          bytes.size(), offset, field.name));
    }
    if (field.fixed_while_running && (status_ & kVirtioDriverOk) != 0 &&
        HasQueues() &&
        std::memcmp(config_.data() + field.offset,
                    bytes.data() + (field.offset - offset), field.bytes) != 0) {
      ConfigWritten(field, /*accepted=*/false);
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: must not change while DRIVER_OK is set", field.name));
    }
    written.push_back(&field);
  }
  if (written.empty() && !bytes.empty() &&
      std::memcmp(config_.data() + offset, bytes.data(), bytes.size()) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "configuration write of %d bytes at %d: must have a field that the "
        "driver may write",
        bytes.size(), offset));
  }
  for (const ConfigField* const field : written) {
    std::memcpy(config_.data() + field->offset,
                bytes.data() + (field->offset - offset), field->bytes);
    ConfigWritten(*field, /*accepted=*/true);
  }
  return absl::OkStatus();
}

uint16_t VirtioDeviceBase::MaxQueueSize(uint16_t index) const {
  LockHolder hold(mutex_);
  return index < queues_.size() ? QueueSize(index, driver_features_) : 0;
}

absl::StatusOr<Notifier*> VirtioDeviceBase::SetUpQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used) {
  return ResumeQueue(index, layout, used, /*start=*/0);
}

absl::StatusOr<Notifier*> VirtioDeviceBase::ResumeQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used,
    uint16_t start) {
  LockHolder hold(mutex_);
  if ((status_ & kVirtioFeaturesOk) == 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("queue %d set up with device status 0x%x: must have "
                        "FEATURES_OK",
                        index, status_));
  }
  const uint16_t most =
      index < queues_.size() ? QueueSize(index, driver_features_) : 0;
  if (most == 0 || !MayUse(index, driver_features_)) {
    return absl::NotFoundError(absl::StrFormat(
        "the device has no queue %d for a driver of features 0x%x", index,
        driver_features_));
  }
  if (queues_[index] != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrFormat("queue %d is set up already", index));
  }
  if (layout.size > most) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue %d of %d descriptors: must be at most %d", index,
                        layout.size, most));
  }
  absl::StatusOr<DeviceQueue> ring = DeviceQueue::Create(
      ram_, layout, ToVirtqueueFeatures(driver_features_), start);
  if (!ring.ok()) return ring.status();
  queues_[index] =
      std::make_unique<Queue>(Queue{.ring = *std::move(ring), .used = used});
  QueueStarted(index, start);
  return kicks_[index].get();
}

absl::StatusOr<uint16_t> VirtioDeviceBase::StopQueue(uint16_t index) {
  std::unique_ptr<Queue> queue;
  {
    LockHolder hold(mutex_);
    if (handler_) {
      GUESTMM_CHECK(*handler_ != std::this_thread::get_id())
          << "queue " << index << " stopped from inside its device's work";
      ++stopping_queues_;
      while (handler_) handler_left_.wait(mutex_);
      --stopping_queues_;
    }
    if (index >= queues_.size() || queues_[index] == nullptr) {
      return absl::NotFoundError(
          absl::StrFormat("queue %d is not set up", index));
    }
    queue = std::move(queues_[index]);
    // Its kicks end with it: the queue that is set up next waits for its own.
    kicked_.fetch_and(~(uint32_t{1} << index));
    // One queue at most is broken: it stops the others.
    if (fault_ && fault_->queue == index) {
      status_ &= static_cast<uint8_t>(~kVirtioNeedsReset);
      fault_.reset();
    }
    QueueStopped(index);
  }
  // For queues that were kicked meanwhile.
  AskForHandling();
  // Chains that were kept are handled again.
  return queue->ring.next_used();
}

void VirtioDeviceBase::SetConfigNotifier(Notifier& config) {
  LockHolder hold(mutex_);
  config_notifier_ = &config;
}

absl::Status VirtioDeviceBase::CheckInvariants() const {
  LockHolder hold(mutex_);
  while (handler_ && *handler_ != std::this_thread::get_id()) {
    handler_left_.wait(mutex_);
  }
  for (const std::unique_ptr<Queue>& queue : queues_) {
    if (queue == nullptr) continue;
    absl::Status status = queue->ring.CheckInvariants();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

bool VirtioDeviceBase::HasQueues() const {
  return std::any_of(queues_.begin(), queues_.end(),
                     [](const auto& queue) { return queue != nullptr; });
}

bool VirtioDeviceBase::IsRunning() const {
  constexpr uint8_t kBits = kVirtioDriverOk | kVirtioNeedsReset | kVirtioFailed;
  return (status_ & kBits) == kVirtioDriverOk && !resetting_;
}

void VirtioDeviceBase::Handle() {
  {
    LockHolder hold(mutex_);
    if (stopping_queues_ > 0 || !IsRunning()) return;
    handler_ = std::this_thread::get_id();
  }
  NotifyConfig();
  HandleRequests();
  const bool has_more = HandleQueues();
  {
    LockHolder hold(mutex_);
    handler_.reset();
    handler_left_.notify_all();
    if (resetting_) {
      ResetLocked();
      resetting_ = false;
      return;
    }
    if (!has_more || !IsRunning()) return;
  }
  AskForHandling();
}

void VirtioDeviceBase::NotifyConfig() {
  Notifier* notifier = nullptr;
  {
    LockHolder hold(mutex_);
    if (std::exchange(config_changed_, false)) notifier = config_notifier_;
  }
  if (notifier != nullptr) notifier->Notify();
}

bool VirtioDeviceBase::HandleQueues() {
  bool has_more = false;
  Nanoseconds postponed = kUntilAsked;
  for (uint32_t kicked = kicked_.exchange(0); kicked != 0;
       kicked &= kicked - 1) {
    const auto index = static_cast<uint16_t>(std::countr_zero(kicked));
    Queue* queue = nullptr;
    {
      LockHolder hold(mutex_);
      if (!IsRunning()) return false;
      queue = queues_[index].get();
    }
    if (queue == nullptr) continue;
    switch (HandleQueue(index, *queue, postponed)) {
      case Round::kDry:
        break;
      case Round::kPostponed:
        kicked_.fetch_or(uint32_t{1} << index);
        break;
      case Round::kMore:
        kicked_.fetch_or(uint32_t{1} << index);
        has_more = true;
        break;
      case Round::kStopped:
        return false;
      case Round::kBroken:
        // For when the broken queue is stopped.
        kicked_.fetch_or(kicked & (kicked - 1));
        return false;
    }
  }
  Resume(postponed);
  return has_more;
}

void VirtioDeviceBase::Resume(Nanoseconds delay) {
  if (delay == kUntilAsked) return;
  // It may be due later, for a queue that waits longer.
  workqueue_.CancelSync(resume_);
  workqueue_.Queue(resume_, delay);
}

VirtioDeviceBase::Round VirtioDeviceBase::HandleQueue(uint16_t index,
                                                      Queue& queue,
                                                      Nanoseconds& postponed) {
  DeviceQueue& ring = queue.ring;
  // Kicks are redundant while this pass is looking at the ring.
  ring.DisableNotifications();
  Nanoseconds last_took{0};
  for (uint16_t handled = 0; handled < ring.size(); ++handled) {
    if (const Nanoseconds delay = Postponed(index); delay > Nanoseconds(0)) {
      postponed = std::min(postponed, delay);
      return Round::kPostponed;
    }
    const absl::StatusOr<std::optional<DescriptorChain>> chain = ring.Pop();
    if (!chain.ok()) {
      Break(index, chain.status());
      return Round::kBroken;
    }
    if (!chain->has_value()) {
      if (Poll(ring, last_took)) continue;
      return ring.EnableNotifications() ? Round::kMore : Round::kDry;
    }
    const Nanoseconds began = PollTime();
    const Verdict verdict = HandleChain(index, **chain);
    last_took = PollTime() - began;
    if (Stopping()) return Round::kStopped;
    if (verdict == Verdict::kGiveBack) Push(index, queue, (*chain)->head);
    if (QueueStopping()) return Round::kMore;
  }
  return Round::kMore;
}

Nanoseconds VirtioDeviceBase::PollTime() const {
  return max_poll_ > Nanoseconds(0) ? MonotonicClock().Now() : Nanoseconds(0);
}

bool VirtioDeviceBase::Poll(const DeviceQueue& ring,
                            Nanoseconds last_took) const {
  // Between two looks at the clock and at what else is to be done.
  constexpr int kLooks = 64;
  const Nanoseconds end = PollTime() + std::min(last_took, max_poll_);
  while (PollTime() < end) {
    for (int i = 0; i < kLooks; ++i) {
      if (ring.HasMore()) return true;
      SpinPause();
    }
    if (kicked_.load() != 0 || Stopping() || QueueStopping()) return false;
  }
  return false;
}

bool VirtioDeviceBase::QueueStopping() const {
  LockHolder hold(mutex_);
  return stopping_queues_ > 0;
}

bool VirtioDeviceBase::Stopping() const {
  LockHolder hold(mutex_);
  return resetting_;
}

void VirtioDeviceBase::GiveBack(uint16_t index, uint16_t head) {
  Queue* queue = nullptr;
  {
    LockHolder hold(mutex_);
    queue = queues_[index].get();
  }
  Push(index, *queue, head);
}

void VirtioDeviceBase::Push(uint16_t index, Queue& queue, uint16_t head) {
  Acknowledging(index);
  // used.len is 0: nothing was written (§5.5.6 does not cover discarding).
  queue.ring.Push(head, 0);
  if (queue.ring.NeedsNotification()) queue.used.Notify();
}

void VirtioDeviceBase::Break(uint16_t index, const absl::Status& why) {
  FoundBroken(index);
  {
    LockHolder hold(mutex_);
    fault_ = {.queue = index,
              .why = absl::Status(why.code(),
                                  absl::StrCat("queue ", index,
                                               " is broken: ", why.message()))};
    status_ |= kVirtioNeedsReset;
    config_changed_ = true;
  }
  // §2.1.2: if DRIVER_OK is set, NEEDS_RESET requires a notification.
  NotifyConfig();
}

void VirtioDeviceBase::ResetLocked() {
  status_ = 0;
  fault_.reset();
  driver_features_ = 0;
  config_notifier_ = nullptr;
  config_changed_ = false;
  kicked_.store(0);
  for (std::unique_ptr<Queue>& queue : queues_) queue.reset();
  WasReset();
}

}  // namespace guestmm
