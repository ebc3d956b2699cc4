#include "src/virtio/vhost_user_session.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/virtio/unix_socket.h"

namespace guestmm {
namespace {

// What a device may have, at most: each takes file descriptors.
constexpr uint16_t kMaxQueues = 16;

// What epoll says of: a queue's kick by its index, or one of these.
constexpr uint64_t kSocketEvent = kMaxQueues;
constexpr uint64_t kWakeEvent = kMaxQueues + 1;

// What the session needs to know when it is told.
constexpr uint64_t kNeededOfFrontEnd = kVhostUserProtocolStatus;

// Whether a file is what a guest may have the device read and write: of a pipe
// or a file of its own, the device could be made to wait.
bool IsEventFd(int fd) {
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  std::array<char, 64> target;
  const ssize_t length = readlink(link.c_str(), target.data(), target.size());
  return length > 0 &&
         std::string_view(target.data(), static_cast<size_t>(length)) ==
             "anon_inode:[eventfd]";
}

std::vector<std::byte> ToBytes(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

absl::StatusOr<uint64_t> ToNumber(const VhostUserMessage& message) {
  return message.As<uint64_t>();
}

}  // namespace

void ConfigChangeNotifier::Set(UniqueFd socket) {
  std::shared_ptr<const VhostUserChannel> next =
      std::make_shared<const VhostUserChannel>(std::move(socket));
  LockHolder hold(lock_);
  std::swap(channel_, next);
}

void ConfigChangeNotifier::Notify() {
  std::shared_ptr<const VhostUserChannel> channel;
  {
    LockHolder hold(lock_);
    channel = channel_;
  }
  if (channel == nullptr) return;
  [[maybe_unused]] const absl::Status sent =
      channel->Send(kVhostUserBackendConfigChange, 0, {});
}

absl::StatusOr<std::unique_ptr<VhostUserSession>> VhostUserSession::Create(
    UniqueFd connection, const VhostUserServer::MakeDevice& make_device,
    const VhostUserServerOptions& options) {
  std::unique_ptr<VhostUserSession> session(
      new VhostUserSession(std::move(connection), options));
  if (absl::Status status = session->Start(make_device); !status.ok()) {
    return status;
  }
  return session;
}

VhostUserSession::VhostUserSession(UniqueFd connection,
                                   const VhostUserServerOptions& options)
    : options_(options),
      channel_(std::move(connection)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      poller_(epoll_create1(EPOLL_CLOEXEC)) {}

absl::Status VhostUserSession::Start(
    const VhostUserServer::MakeDevice& make_device) {
  if (!wake_.valid()) return SystemError("eventfd");
  if (!poller_.valid()) return SystemError("epoll_create1");
  epoll_event socket = {.events = EPOLLIN, .data = {.u64 = kSocketEvent}};
  epoll_event wake = {.events = EPOLLIN, .data = {.u64 = kWakeEvent}};
  if (epoll_ctl(poller_.get(), EPOLL_CTL_ADD, channel_.fd(), &socket) != 0 ||
      epoll_ctl(poller_.get(), EPOLL_CTL_ADD, wake_.get(), &wake) != 0) {
    return SystemError("epoll_ctl");
  }
  absl::StatusOr<std::unique_ptr<GuestRam>> ram = GuestRam::CreateForeign();
  if (!ram.ok()) return ram.status();
  ram_ = *std::move(ram);
  hypervisor_ = std::make_unique<CountingHypervisor>(*ram_);
  workqueue_ = std::make_unique<ThreadWorkqueue>();
  device_ = make_device(*ram_, *hypervisor_, *workqueue_);
  GUESTMM_CHECK(device_ != nullptr) << "make_device made no device";
  uint16_t queues = 0;
  for (uint16_t index = 0; index < kMaxQueues; ++index) {
    if (device_->MaxQueueSize(index) > 0) {
      queues = static_cast<uint16_t>(index + 1);
    }
  }
  rings_ = std::vector<Ring>(queues);
  return absl::OkStatus();
}

VhostUserSession::~VhostUserSession() {
  if (device_ != nullptr) Reset();
}

void VhostUserSession::Stop() {
  stop_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written =
      write(wake_.get(), &one, sizeof(one));
}

VhostUserCounters VhostUserSession::counters() const {
  const DiscardCounters discards = hypervisor_->counters();
  return {.messages = messages_,
          .refused = refused_,
          .reports = hypervisor_->batches(),
          .bytes = discards.bytes,
          .failures = discards.failures};
}

absl::Status VhostUserSession::Run() {
  while (true) {
    std::array<epoll_event, 8> events;
    const int count =
        epoll_wait(poller_.get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return SystemError("epoll_wait");
    if (stop_) return absl::CancelledError("the server ended the session");
    bool has_messages = false;
    for (int i = 0; i < count; ++i) {
      const uint64_t event = events[static_cast<size_t>(i)].data.u64;
      if (event == kSocketEvent) {
        has_messages = true;
      } else if (event < rings_.size() && rings_[event].kick != nullptr) {
        rings_[event].kick->Notify();
      }
    }
    // After the kicks: a message may end what they are for.
    if (!has_messages) continue;
    if (absl::Status status = HandleMessages(); !status.ok()) return status;
  }
}

absl::Status VhostUserSession::HandleMessages() {
  // Not until there is none: kicks and Stop have their turn between two.
  absl::StatusOr<std::optional<VhostUserMessage>> message = channel_.Receive();
  if (!message.ok()) return message.status();
  if (!message->has_value()) return absl::OkStatus();
  return HandleMessage(**message);
}

absl::Status VhostUserSession::HandleMessage(VhostUserMessage& message) {
  messages_.fetch_add(1, std::memory_order_relaxed);
  const absl::StatusOr<Reply> reply = Dispatch(message);
  if (!reply.ok()) refused_.fetch_add(1, std::memory_order_relaxed);
  if (reply.ok() && reply->has_value()) {
    return channel_.Send(message.header.request, kVhostUserReply, **reply);
  }
  if (message.needs_reply() &&
      (protocol_features_ & kVhostUserProtocolReplyAck) != 0) {
    // Any number but 0 is an error; which one says what kind.
    const auto code = static_cast<uint64_t>(reply.status().code());
    return channel_.Send(message.header.request, kVhostUserReply,
                         BytesOf(code));
  }
  return reply.status();
}

absl::StatusOr<VhostUserSession::Reply> VhostUserSession::Dispatch(
    VhostUserMessage& message) {
  const auto number = [](uint64_t value) -> Reply {
    return ToBytes(BytesOf(value));
  };
  const auto none = [](const absl::Status& status) -> absl::StatusOr<Reply> {
    if (!status.ok()) return status;
    return std::nullopt;
  };
  // A handler of a whole payload.
  const auto with = [&]<typename T>(absl::StatusOr<T> payload, auto handler) {
    return none(payload.ok() ? handler(*payload) : payload.status());
  };
  switch (message.request()) {
    case VhostUserRequest::kGetFeatures:
      return number(device_->DeviceFeatures() | kVhostUserFProtocolFeatures);
    case VhostUserRequest::kSetFeatures:
      return with(ToNumber(message),
                  [&](uint64_t bits) { return SetFeatures(bits); });
    case VhostUserRequest::kSetOwner:
      return none(absl::OkStatus());
    case VhostUserRequest::kGetProtocolFeatures:
      return number(kVhostUserProtocolFeatures);
    case VhostUserRequest::kSetProtocolFeatures:
      return with(ToNumber(message),
                  [&](uint64_t bits) { return SetProtocolFeatures(bits); });
    case VhostUserRequest::kGetQueueNum:
      return number(rings_.size());
    case VhostUserRequest::kGetMaxMemSlots:
      return number(options_.max_regions);
    case VhostUserRequest::kSetStatus:
      return with(ToNumber(message),
                  [&](uint64_t status) { return SetStatus(status); });
    case VhostUserRequest::kGetStatus:
      return number(device_->status());
    case VhostUserRequest::kResetDevice:
      Reset();
      return none(absl::OkStatus());
    case VhostUserRequest::kSetBackendReqFd:
      return none(SetBackendReqFd(message));
    case VhostUserRequest::kGetConfig:
      return GetConfig(message);
    case VhostUserRequest::kSetConfig:
      return none(SetConfig(message));

    case VhostUserRequest::kSetMemTable:
      return none(SetMemTable(message));
    case VhostUserRequest::kAddMemReg:
      if (message.fds.size() != 1) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "ADD_MEM_REG: came with %d fds: must be 1", message.fds.size()));
      }
      return with(message.As<VhostUserSingleRegion>(), [&](const auto& single) {
        return AddRegion(single.region, message.fds[0].get());
      });
    case VhostUserRequest::kRemMemReg:
      return with(message.As<VhostUserSingleRegion>(), [&](const auto& single) {
        return RemoveRegion(single.region);
      });

    case VhostUserRequest::kSetVringNum:
      return with(message.As<VhostUserVringState>(),
                  [&](const auto& state) { return SetVringNum(state); });
    case VhostUserRequest::kSetVringAddr:
      return with(message.As<VhostUserVringAddr>(), [&](const auto& addresses) {
        return SetVringAddr(addresses);
      });
    case VhostUserRequest::kSetVringBase:
      return with(message.As<VhostUserVringState>(),
                  [&](const auto& state) { return SetVringBase(state); });
    case VhostUserRequest::kGetVringBase: {
      absl::StatusOr<VhostUserVringState> state =
          message.As<VhostUserVringState>();
      if (!state.ok()) return state.status();
      const absl::StatusOr<uint16_t> base = GetVringBase(*state);
      if (!base.ok()) return base.status();
      state->num = *base;
      return Reply(ToBytes(BytesOf(*state)));
    }
    case VhostUserRequest::kSetVringEnable:
      return with(message.As<VhostUserVringState>(),
                  [&](const auto& state) { return SetVringEnable(state); });
    case VhostUserRequest::kSetVringKick:
      return none(SetVringKick(message));
    case VhostUserRequest::kSetVringCall:
      return none(SetVringCall(message));
  }
  return absl::UnimplementedError(
      absl::StrCat(Name(message.request()), ": is not known"));
}

absl::Status VhostUserSession::SetFeatures(uint64_t features) {
  if ((features & kVhostUserFProtocolFeatures) == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_FEATURES: 0x%x is without PROTOCOL_FEATURES, 0x%x",
                        features, kVhostUserFProtocolFeatures));
  }
  return device_->SetDriverFeatures(features & ~kVhostUserFProtocolFeatures);
}

absl::Status VhostUserSession::SetProtocolFeatures(uint64_t features) {
  if ((features & ~kVhostUserProtocolFeatures) != 0 ||
      (features & kNeededOfFrontEnd) != kNeededOfFrontEnd) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_PROTOCOL_FEATURES: 0x%x: must be among 0x%x, with 0x%x", features,
        kVhostUserProtocolFeatures, kNeededOfFrontEnd));
  }
  protocol_features_ = features;
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetStatus(uint64_t status) {
  if (status > UINT8_MAX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_STATUS: 0x%x: the most is 0xff", status));
  }
  if (status == 0) {
    Reset();
    return absl::OkStatus();
  }
  const bool was_running = (device_->status() & kVirtioDriverOk) != 0;
  device_->SetConfigNotifier(config_change_);
  device_->SetStatus(static_cast<uint8_t>(status));
  if (!was_running && (device_->status() & kVirtioDriverOk) != 0) {
    // Kicks that came before were for nothing.
    for (const Ring& ring : rings_) {
      if (ring.kick != nullptr) ring.kick->Notify();
    }
  }
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetBackendReqFd(VhostUserMessage& message) {
  if (message.fds.size() != 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_BACKEND_REQ_FD: came with %d fds: must be 1", message.fds.size()));
  }
  int domain = 0;
  socklen_t length = sizeof(domain);
  if (getsockopt(message.fds[0].get(), SOL_SOCKET, SO_DOMAIN, &domain,
                 &length) != 0 ||
      domain != AF_UNIX) {
    return absl::InvalidArgumentError(
        "SET_BACKEND_REQ_FD: came with an fd that is not a Unix socket");
  }
  config_change_.Set(std::move(message.fds[0]));
  return absl::OkStatus();
}

absl::StatusOr<VhostUserSession::Reply> VhostUserSession::GetConfig(
    const VhostUserMessage& message) {
  VhostUserConfigHeader header = {};
  absl::Status status;
  if (message.payload.size() < sizeof(header)) {
    status = message.CheckSize(sizeof(header));
  } else {
    std::memcpy(&header, message.payload.data(), sizeof(header));
    status = header.size <= kVhostUserMaxConfig
                 ? message.CheckSize(sizeof(header) + header.size)
                 : absl::OutOfRangeError("");
  }
  std::vector<std::byte> reply = message.payload;
  if (status.ok()) {
    status = device_->ReadConfig(header.offset,
                                 std::span(reply).subspan(sizeof(header)));
  }
  if (!status.ok()) {
    // That is how it is said. To ask how much there is is no error.
    if (!absl::IsOutOfRange(status)) {
      refused_.fetch_add(1, std::memory_order_relaxed);
    }
    reply.clear();
  }
  return reply;
}

absl::Status VhostUserSession::SetConfig(const VhostUserMessage& message) {
  VhostUserConfigHeader header = {};
  if (message.payload.size() < sizeof(header)) {
    return message.CheckSize(sizeof(header));
  }
  std::memcpy(&header, message.payload.data(), sizeof(header));
  if (header.size > kVhostUserMaxConfig) {
    return absl::OutOfRangeError(
        absl::StrFormat("SET_CONFIG: of %d bytes: the most is %d", header.size,
                        kVhostUserMaxConfig));
  }
  if (absl::Status status = message.CheckSize(sizeof(header) + header.size);
      !status.ok()) {
    return status;
  }
  return device_->WriteConfig(
      header.offset, std::span(message.payload).subspan(sizeof(header)));
}

absl::Status VhostUserSession::SetMemTable(const VhostUserMessage& message) {
  VhostUserMemTableHeader header = {};
  if (message.payload.size() < sizeof(header)) {
    return message.CheckSize(sizeof(header));
  }
  std::memcpy(&header, message.payload.data(), sizeof(header));
  if (header.count > kVhostUserMaxFds || header.count != message.fds.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_MEM_TABLE: %d regions with %d fds: must be as many, at most %d",
        header.count, message.fds.size(), kVhostUserMaxFds));
  }
  if (absl::Status status = message.CheckSize(
          sizeof(header) + header.count * sizeof(VhostUserRegion));
      !status.ok()) {
    return status;
  }
  if (IsSetUp()) {
    return absl::FailedPreconditionError(
        "SET_MEM_TABLE: a queue is set up: only ADD_MEM_REG and REM_MEM_REG "
        "go then");
  }
  while (!regions_.empty()) {
    if (absl::Status status = RemoveRegion(regions_.back()); !status.ok()) {
      return status;
    }
  }
  for (size_t i = 0; i < header.count; ++i) {
    VhostUserRegion region;
    std::memcpy(&region,
                message.payload.data() + sizeof(header) + i * sizeof(region),
                sizeof(region));
    if (absl::Status status = AddRegion(region, message.fds[i].get());
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status VhostUserSession::AddRegion(const VhostUserRegion& region,
                                         int fd) {
  const GpaRange range = {Gpa(region.guest_phys_addr), region.size};
  if (regions_.size() >= options_.max_regions) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "ADD_MEM_REG: %d regions are there, the most", options_.max_regions));
  }
  if (region.size > options_.max_guest_bytes - guest_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("ADD_MEM_REG: %s more than %s: the most is %s",
                        FormatBytes(region.size), FormatBytes(guest_bytes_),
                        FormatBytes(options_.max_guest_bytes)));
  }
  if (region.userspace_addr + region.size < region.userspace_addr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ADD_MEM_REG: user address 0x%x + %s runs past the end "
                        "of the address space",
                        region.userspace_addr, FormatBytes(region.size)));
  }
  if (absl::Status status = ram_->AdoptRegion(range, fd, region.mmap_offset);
      !status.ok()) {
    return status;
  }
  guest_bytes_ += region.size;
  regions_.push_back(region);
  return absl::OkStatus();
}

absl::Status VhostUserSession::RemoveRegion(const VhostUserRegion& region) {
  const auto found = std::find_if(
      regions_.begin(), regions_.end(), [&](const VhostUserRegion& other) {
        return other.guest_phys_addr == region.guest_phys_addr &&
               other.size == region.size &&
               other.userspace_addr == region.userspace_addr;
      });
  if (found == regions_.end()) {
    return absl::NotFoundError(
        absl::StrFormat("REM_MEM_REG: no region at 0x%x of %s",
                        region.guest_phys_addr, FormatBytes(region.size)));
  }
  const GpaRange range = {Gpa(found->guest_phys_addr), found->size};
  if (absl::Status status = ram_->RemoveRegion(range); !status.ok()) {
    return status;
  }
  guest_bytes_ -= range.bytes;
  regions_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<Gpa> VhostUserSession::Translate(uint64_t userspace_addr) const {
  for (const VhostUserRegion& region : regions_) {
    if (const uint64_t offset = userspace_addr - region.userspace_addr;
        offset < region.size) {
      return Gpa(region.guest_phys_addr) + offset;
    }
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "SET_VRING_ADDR: user address 0x%x is in no region", userspace_addr));
}

absl::StatusOr<VhostUserSession::Ring*> VhostUserSession::FindRing(
    uint64_t index) {
  if (index >= rings_.size()) {
    return absl::NotFoundError(
        absl::StrFormat("queue %d: the device has %d", index, rings_.size()));
  }
  return &rings_[index];
}

absl::Status VhostUserSession::SetVringNum(const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> ring = FindRing(state.index);
  if (!ring.ok()) return ring.status();
  const uint16_t most =
      device_->MaxQueueSize(static_cast<uint16_t>(state.index));
  if (!std::has_single_bit(state.num) || state.num > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_VRING_NUM: queue %d of %d descriptors: must be a power of 2 up to "
        "%d",
        state.index, state.num, most));
  }
  (*ring)->size = static_cast<uint16_t>(state.num);
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetVringAddr(
    const VhostUserVringAddr& addresses) {
  const absl::StatusOr<Ring*> ring = FindRing(addresses.index);
  if (!ring.ok()) return ring.status();
  if (addresses.flags != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_VRING_ADDR: flags 0x%x: logging was not offered",
                        addresses.flags));
  }
  (*ring)->addresses = addresses;
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetVringBase(const VhostUserVringState& state) {
  if (const absl::StatusOr<Ring*> ring = FindRing(state.index); !ring.ok()) {
    return ring.status();
  }
  if (state.num == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "SET_VRING_BASE: queue %d from entry %d on: a queue starts at 0",
      state.index, state.num));
}

absl::StatusOr<uint16_t> VhostUserSession::GetVringBase(
    const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> ring = FindRing(state.index);
  if (!ring.ok()) return ring.status();
  absl::StatusOr<Gpa> used = Gpa(0);
  if ((*ring)->addresses) used = Translate((*ring)->addresses->used);
  // A device stops as a whole. What it took it has given back then, so that the
  // used index says how far it came.
  Reset();
  if (!used.ok()) return uint16_t{0};
  const std::optional<Translation> header =
      ram_->Translate({*used, sizeof(VirtqRingHeader)});
  if (!header || !used->IsAligned(kVirtqUsedAlignment)) return uint16_t{0};
  return std::atomic_ref<uint16_t>(
             *reinterpret_cast<uint16_t*>(header->bytes().data() +
                                          offsetof(VirtqRingHeader, idx)))
      .load();
}

absl::Status VhostUserSession::SetVringEnable(
    const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> found = FindRing(state.index);
  if (!found.ok()) return found.status();
  Ring& ring = **found;
  if (state.num > 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_VRING_ENABLE: queue %d: %d is neither 0 nor 1",
                        state.index, state.num));
  }
  if (state.num == (ring.kick != nullptr ? 1 : 0)) return absl::OkStatus();
  if (state.num == 0) {
    Reset();
    return absl::OkStatus();
  }
  if (ring.size == 0 || !ring.addresses || !ring.kick_fd.valid()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("SET_VRING_ENABLE: queue %d has no %s", state.index,
                        ring.size == 0    ? "size (SET_VRING_NUM)"
                        : !ring.addresses ? "addresses (SET_VRING_ADDR)"
                                          : "kick (SET_VRING_KICK)"));
  }
  VirtqueueLayout layout;
  layout.size = ring.size;
  for (const auto& [address, part] :
       {std::pair{ring.addresses->descriptors, &layout.descriptors},
        std::pair{ring.addresses->available, &layout.available},
        std::pair{ring.addresses->used, &layout.used}}) {
    const absl::StatusOr<Gpa> gpa = Translate(address);
    if (!gpa.ok()) return gpa.status();
    *part = *gpa;
  }
  const absl::StatusOr<Notifier*> kick = device_->SetUpQueue(
      static_cast<uint16_t>(state.index), layout, ring.call);
  if (!kick.ok()) return kick.status();
  // By edges: nothing is read, since the guest could make that wait.
  epoll_event event = {.events = EPOLLIN | EPOLLET,
                       .data = {.u64 = state.index}};
  if (epoll_ctl(poller_.get(), EPOLL_CTL_ADD, ring.kick_fd.get(), &event) !=
      0) {
    Reset();
    return SystemError("epoll_ctl");
  }
  ring.kick = *kick;
  return absl::OkStatus();
}

absl::StatusOr<std::pair<uint64_t, UniqueFd>> VhostUserSession::TakeVringFd(
    VhostUserMessage& message) {
  const absl::StatusOr<uint64_t> value = ToNumber(message);
  if (!value.ok()) return value.status();
  const bool has_fd = (*value & kVhostUserVringNoFd) == 0;
  if (message.fds.size() != (has_fd ? 1 : 0)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: 0x%x came with %d fds: must be %d", Name(message.request()),
        *value, message.fds.size(), has_fd ? 1 : 0));
  }
  if (has_fd && !IsEventFd(message.fds[0].get())) {
    return absl::InvalidArgumentError(absl::StrCat(
        Name(message.request()), ": came with an fd that is not an eventfd"));
  }
  return std::pair(*value & kVhostUserVringIndexMask,
                   has_fd ? std::move(message.fds[0]) : UniqueFd());
}

absl::Status VhostUserSession::SetVringKick(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeVringFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = FindRing(taken->first);
  if (!ring.ok()) return ring.status();
  if ((*ring)->kick != nullptr || !taken->second.valid()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "SET_VRING_KICK: queue %d: %s", taken->first,
        (*ring)->kick != nullptr ? "is set up" : "must have an eventfd"));
  }
  (*ring)->kick_fd = std::move(taken->second);
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetVringCall(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeVringFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = FindRing(taken->first);
  if (!ring.ok()) return ring.status();
  (*ring)->call.Set(std::move(taken->second));
  return absl::OkStatus();
}

bool VhostUserSession::IsSetUp() const {
  return std::any_of(rings_.begin(), rings_.end(),
                     [](const Ring& ring) { return ring.kick != nullptr; });
}

void VhostUserSession::Reset() {
  for (Ring& ring : rings_) {
    if (ring.kick != nullptr) {
      // Closing it would not: the guest has it open too.
      epoll_ctl(poller_.get(), EPOLL_CTL_DEL, ring.kick_fd.get(), nullptr);
    }
    ring.kick = nullptr;
    ring.call.Close();
  }
  device_->SetStatus(0);
  for (Ring& ring : rings_) {
    ring.size = 0;
    ring.addresses.reset();
    ring.kick_fd = UniqueFd();
  }
}

}  // namespace guestmm
