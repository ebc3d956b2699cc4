#include "src/virtio/vhost_user/front_end/front_end.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/base/unix_socket.h"

namespace guestmm {
namespace {

// A second descriptor of the same open file.
UniqueFd Duplicate(const UniqueFd& fd) {
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VhostUserDevice>> VhostUserDevice::Connect(
    const std::string& path, GuestRam& ram, const VirtioDeviceKind& kind,
    const VhostUserDeviceOptions& options) {
  if (ram.memfd() < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of source %s%s: must be a %s or a %s, which another process "
        "can map",
        ram.foreign() ? "foreign " : "", Name(ram.source()),
        Name(MemorySource::kSharedMemfd), Name(MemorySource::kHugetlb)));
  }
  auto front_end =
      std::make_unique<VhostUserFrontEnd>(path, ram, kind, options);
  if (absl::Status status = front_end->Start(); !status.ok()) return status;
  return front_end;
}

VhostUserFrontEnd::VhostUserFrontEnd(std::string path, GuestRam& ram,
                                     const VirtioDeviceKind& kind,
                                     const VhostUserDeviceOptions& options)
    : kind_(kind),
      options_(options),
      connection_(std::move(path), options.timeout, *this),
      shared_ram_(ram, connection_) {}

// The connection.

absl::Status VhostUserFrontEnd::Start() {
  shared_ram_.Forget();
  return connection_.Connect([this](const VhostUserConnection::Offer& offer) {
    return Introduce(offer);
  });
}

absl::Status VhostUserFrontEnd::Introduce(
    const VhostUserConnection::Offer& offer) {
  const absl::StatusOr<uint64_t> queues =
      connection_.AskNumber(VhostUserRequest::kGetQueueNum);
  if (!queues.ok()) return queues.status();
  {
    LockHolder hold(connection_.mutex());
    features_ = offer.features;
    queue_count_ = static_cast<uint16_t>(
        std::min<uint64_t>(*queues, kVhostUserVringIndexMask));
    while (queues_.size() < queue_count_) {
      queues_.push_back(std::make_unique<Queue>());
    }
  }
  FindConfig((offer.protocol_features & kVhostUserProtocolConfig) != 0);
  if (absl::Status status = shared_ram_.ShareAll(); !status.ok()) {
    return status;
  }
  return connection();
}

absl::Status VhostUserFrontEnd::Reconnect() {
  {
    LockHolder hold(connection_.mutex());
    if (status_ != 0 || resetting_ || abandoned_) {
      return absl::FailedPreconditionError(
          absl::StrCat("the device at ", connection_.path(),
                       abandoned_ ? " was abandoned" : " was not reset"));
    }
    if (connection_.link() == Link::kUp) return absl::OkStatus();
  }
  return Start();
}

void VhostUserFrontEnd::Abandon() {
  LockHolder hold(connection_.mutex());
  abandoned_ = true;
  connection_.Lose(absl::CancelledError("abandoned"));
  if (resetting_) CompleteReset();
}

void VhostUserFrontEnd::OnLost() {
  if (resetting_ && !is_started_) CompleteReset();
  if (config_notifier_ != nullptr) config_notifier_->Notify();
}

void VhostUserFrontEnd::OnProcessEnded() {
  if (resetting_) CompleteReset();
}

void VhostUserFrontEnd::OnDone(VhostUserRequest) {
  // Only resets are posted.
  CompleteReset();
}

// Features and status.

uint64_t VhostUserFrontEnd::DeviceFeatures() const {
  LockHolder hold(connection_.mutex());
  return features_;
}

absl::Status VhostUserFrontEnd::SetDriverFeatures(uint64_t features) {
  return connection_.Tell(VhostUserRequest::kSetFeatures,
                          BytesOf(features | kVhostUserFProtocolFeatures));
}

uint8_t VhostUserFrontEnd::status() const {
  {
    LockHolder hold(connection_.mutex());
    // A copy: wait_until() reads it after it has let go of the mutex.
    const auto deadline = reset_deadline_;
    while (resetting_ &&
           reset_done_.wait_until(connection_.mutex(), deadline) !=
               std::cv_status::timeout) {
    }
    if (status_ == 0) return 0;
    if (resetting_ || connection_.link() != Link::kUp) return LastStatus();
  }
  const absl::StatusOr<uint64_t> status =
      connection_.AskNumber(VhostUserRequest::kGetStatus);
  LockHolder hold(connection_.mutex());
  // The device may have been reset in the meantime.
  if (status_ == 0) return 0;
  if (resetting_ || !status.ok()) return LastStatus();
  if (*status == 0 || *status > UINT8_MAX) {
    // The front end has not reset it, so its queues would still be set up here.
    connection_.Lose(absl::InternalError(
        absl::StrFormat("GET_STATUS: 0x%x: must be 0x1 to 0xff until the "
                        "driver resets the device",
                        *status)));
    return LastStatus();
  }
  status_ = static_cast<uint8_t>(*status);
  return status_;
}

uint8_t VhostUserFrontEnd::LastStatus() const {
  return connection_.link() == Link::kUp
             ? status_
             : static_cast<uint8_t>(status_ | kVirtioNeedsReset);
}

void VhostUserFrontEnd::SetStatus(uint8_t status) {
  if (status == 0) return Reset();
  {
    LockHolder hold(connection_.mutex());
    // A status that cannot be sent is not recorded: the VMM does not know of
    // it, so memory stays safe to use.
    if (resetting_ || connection_.link() != Link::kUp) return;
    status_ |= status;
    is_started_ |= (status & kVirtioDriverOk) != 0;
  }
  // The caller reads status() back to learn whether the bits were accepted.
  [[maybe_unused]] const absl::Status sent =
      connection_.Tell(VhostUserRequest::kSetStatus, BytesOf(uint64_t{status}));
}

void VhostUserFrontEnd::Reset() {
  LockHolder hold(connection_.mutex());
  if (resetting_) return;
  resetting_ = true;
  reset_deadline_ = std::chrono::steady_clock::now() + options_.timeout;
  const Link link = connection_.link();
  if (link == Link::kLost && !is_started_) return CompleteReset();
  if (link == Link::kGone || abandoned_) return CompleteReset();
  if (link == Link::kLost) return;
  connection_.Post(VhostUserRequest::kSetStatus, BytesOf(uint64_t{0}));
}

void VhostUserFrontEnd::CompleteReset() {
  resetting_ = false;
  status_ = 0;
  is_started_ = false;
  config_is_current_ = false;
  config_notifier_ = nullptr;
  for (const auto& queue : queues_) {
    queue->used = nullptr;
    queue->call = UniqueFd();
    queue->kick.Set(UniqueFd());
  }
  reset_done_.notify_all();
}

// Configuration.

uint32_t VhostUserFrontEnd::ConfigGeneration() const {
  LockHolder hold(connection_.mutex());
  return generation_;
}

absl::Status VhostUserFrontEnd::ReadConfig(uint32_t offset,
                                           std::span<std::byte> bytes) const {
  FetchConfig();
  LockHolder hold(connection_.mutex());
  if (absl::Status status =
          CheckConfigRange(offset, bytes.size(), config_.size());
      !status.ok()) {
    return status;
  }
  std::copy_n(config_.begin() + offset, bytes.size(), bytes.begin());
  return absl::OkStatus();
}

absl::Status VhostUserFrontEnd::WriteConfig(uint32_t offset,
                                            std::span<const std::byte> bytes) {
  {
    LockHolder hold(connection_.mutex());
    if (absl::Status status =
            CheckConfigRange(offset, bytes.size(), config_.size());
        !status.ok()) {
      return status;
    }
  }
  const VhostUserConfigHeader header = {
      .offset = offset,
      .size = static_cast<uint32_t>(bytes.size()),
      .flags = 0};
  const std::span<const std::byte> start = BytesOf(header);
  std::vector<std::byte> payload(start.begin(), start.end());
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  absl::Status status = connection_.Tell(VhostUserRequest::kSetConfig, payload);
  LockHolder hold(connection_.mutex());
  config_is_current_ = false;
  return status;
}

void VhostUserFrontEnd::SetConfigNotifier(Notifier& config) {
  LockHolder hold(connection_.mutex());
  config_notifier_ = &config;
}

void VhostUserFrontEnd::OnConfigChange() {
  ++generation_;
  config_is_current_ = false;
  if (config_notifier_ != nullptr) config_notifier_->Notify();
}

void VhostUserFrontEnd::FindConfig(bool has_config) {
  const auto set_size = [this](uint32_t size) {
    LockHolder hold(connection_.mutex());
    config_.assign(size, std::byte{0});
    config_is_current_ = false;
  };
  if (has_config) {
    for (const uint32_t size : kind_.config_sizes) {
      set_size(size);
      if (FetchConfig()) return;
    }
  }
  set_size(0);
}

bool VhostUserFrontEnd::FetchConfig() const {
  VhostUserConfigHeader header = {};
  {
    LockHolder hold(connection_.mutex());
    header.size = static_cast<uint32_t>(config_.size());
    if (header.size == 0 || connection_.link() != Link::kUp) return true;
    // Set before asking: a change notification that arrives in the meantime
    // clears it again.
    if (std::exchange(config_is_current_, true)) return true;
  }
  const std::span<const std::byte> start = BytesOf(header);
  std::vector<std::byte> payload(start.begin(), start.end());
  payload.resize(sizeof(header) + header.size);
  const absl::StatusOr<std::vector<std::byte>> reply =
      connection_.Ask(VhostUserRequest::kGetConfig, payload);
  if (!reply.ok()) return true;
  if (reply->size() != payload.size()) return false;
  const std::vector<std::byte> config(
      reply->begin() + static_cast<ptrdiff_t>(sizeof(header)), reply->end());
  LockHolder hold(connection_.mutex());
  if (config != config_) {
    config_ = config;
    ++generation_;
  }
  return true;
}

// Queues.

uint16_t VhostUserFrontEnd::MaxQueueSize(uint16_t index) const {
  LockHolder hold(connection_.mutex());
  return index < queue_count_ ? options_.max_queue_size : 0;
}

absl::StatusOr<Notifier*> VhostUserFrontEnd::SetUpQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used) {
  const UniqueFd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd call(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!kick.valid() || !call.valid()) return SystemError("eventfd");
  const UniqueFd call_end = Duplicate(call);
  Queue* queue = nullptr;
  {
    LockHolder hold(connection_.mutex());
    if (index >= queue_count_) {
      return absl::NotFoundError(
          absl::StrFormat("queue %d: the device at %s has %d queues", index,
                          connection_.path(), queue_count_));
    }
    queue = queues_[index].get();
    queue->used = &used;
    queue->call = std::move(call);
  }
  queue->kick.Set(Duplicate(kick));
  connection_.Wake();

  // Guest-physical addresses are user addresses: see VhostUserSharedRam.
  const VhostUserVringAddr addresses = {
      .index = index,
      .flags = 0,
      .descriptors = layout.descriptors.value(),
      .used = layout.used.value(),
      .available = layout.available.value(),
      .log = 0};
  const auto state = [&](uint32_t number) {
    return VhostUserVringState{.index = index, .num = number};
  };
  const auto tell = [&](VhostUserRequest request, const auto& payload,
                        std::span<const int> fds = {}) {
    return connection_.Tell(request, BytesOf(payload), fds);
  };
  const int kick_fd = kick.get();
  const int call_fd = call_end.get();
  absl::Status status =
      tell(VhostUserRequest::kSetVringNum, state(layout.size));
  if (status.ok()) {
    status = tell(VhostUserRequest::kSetVringBase, state(0));
  }
  if (status.ok()) status = tell(VhostUserRequest::kSetVringAddr, addresses);
  if (status.ok()) {
    status = tell(VhostUserRequest::kSetVringCall, uint64_t{index},
                  std::span(&call_fd, 1));
  }
  if (status.ok()) {
    status = tell(VhostUserRequest::kSetVringKick, uint64_t{index},
                  std::span(&kick_fd, 1));
  }
  if (status.ok()) status = tell(VhostUserRequest::kSetVringEnable, state(1));
  if (!status.ok()) {
    LockHolder hold(connection_.mutex());
    queue->used = nullptr;
    return status;
  }
  return &queue->kick;
}

std::vector<int> VhostUserFrontEnd::CallFds() const {
  std::vector<int> fds;
  for (const auto& queue : queues_) fds.push_back(queue->call.get());
  return fds;
}

void VhostUserFrontEnd::OnCall(size_t index) {
  const Queue& queue = *queues_[index];
  uint64_t count = 0;
  if (queue.call.valid() &&
      read(queue.call.get(), &count, sizeof(count)) == sizeof(count) &&
      queue.used != nullptr) {
    queue.used->Notify();
  }
}

}  // namespace guestmm
