#include "src/virtio/vhost_user/back_end/session.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/virtio/vhost_user/unix_socket.h"

namespace guestmm {
namespace {

// The data of epoll events: a queue's index for its kick, or one of these.
constexpr uint64_t kSocketEvent = VhostUserRings::kMaxQueues;
constexpr uint64_t kWakeEvent = VhostUserRings::kMaxQueues + 1;

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
  if ((device_->status() & kVirtioNeedsReset) != 0) rings_->NotifyErrors();
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
    UniqueFd connection, MakeDevice make_device,
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
      poller_(epoll_create1(EPOLL_CLOEXEC)) {}

absl::Status VhostUserSession::Start(MakeDevice make_device) {
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
  regions_ = std::make_unique<VhostUserRegions>(*ram_, options_.max_regions,
                                                options_.max_guest_bytes);
  workqueue_ = std::make_unique<ThreadWorkqueue>();
  device_ = make_device(*ram_, *workqueue_);
  GUESTMM_CHECK(device_ != nullptr) << "make_device made no device";
  rings_ = std::make_unique<VhostUserRings>(*device_, *ram_, *regions_,
                                            poller_.get());
  config_change_.SetDevice(*device_, *rings_);
  rings_->SetConfigNotifier(config_change_);
  return absl::OkStatus();
}

VhostUserSession::~VhostUserSession() {
  if (rings_ != nullptr) rings_->Reset();
}

void VhostUserSession::Stop() {
  stop_ = true;
  wake_.Wake();
}

VhostUserCounters VhostUserSession::counters() const {
  return {.messages = messages_, .refused = refused_};
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
      } else if (!rings_->Kick(event).ok()) {
        refused_.fetch_add(1, std::memory_order_relaxed);
      }
    }
    // Messages after kicks: a message may disable the queue that was kicked.
    if (!has_messages) continue;
    if (absl::Status status = HandleMessages(); !status.ok()) return status;
  }
}

absl::Status VhostUserSession::HandleMessages() {
  // One message at a time, so that kicks and Stop are handled in between.
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
    // 0 is success. Other values are up to the back end: here, the status code.
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
  // Calls `handler` with the payload, if it has the right size.
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
    // Deprecated, and to be ignored (vhost-user, RESET_OWNER).
    case VhostUserRequest::kResetOwner:
      return none(absl::OkStatus());
    case VhostUserRequest::kGetProtocolFeatures:
      return number(kVhostUserProtocolFeatures);
    case VhostUserRequest::kSetProtocolFeatures:
      return with(ToNumber(message),
                  [&](uint64_t bits) { return SetProtocolFeatures(bits); });
    case VhostUserRequest::kGetQueueNum:
      return number(rings_->size());
    case VhostUserRequest::kGetMaxMemSlots:
      return number(options_.max_regions);
    case VhostUserRequest::kSetStatus:
      return with(ToNumber(message),
                  [&](uint64_t status) { return SetStatus(status); });
    case VhostUserRequest::kGetStatus:
      return number(device_->status());
    case VhostUserRequest::kResetDevice:
      rings_->Reset();
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
        return regions_->Add(message.request(), single.region,
                             message.fds[0].get());
      });
    case VhostUserRequest::kRemMemReg:
      return with(message.As<VhostUserSingleRegion>(), [&](const auto& single) {
        return regions_->Remove(single.region);
      });

    case VhostUserRequest::kSetVringNum:
      return with(message.As<VhostUserVringState>(), [&](const auto& state) {
        return rings_->SetVringNum(state);
      });
    case VhostUserRequest::kSetVringAddr:
      return with(message.As<VhostUserVringAddr>(), [&](const auto& addresses) {
        return rings_->SetVringAddr(addresses);
      });
    case VhostUserRequest::kSetVringBase:
      return with(message.As<VhostUserVringState>(), [&](const auto& state) {
        return rings_->SetVringBase(state);
      });
    case VhostUserRequest::kGetVringBase: {
      absl::StatusOr<VhostUserVringState> state =
          message.As<VhostUserVringState>();
      if (!state.ok()) return state.status();
      const absl::StatusOr<uint16_t> base = rings_->GetVringBase(*state);
      if (!base.ok()) return base.status();
      state->num = *base;
      return Reply(ToBytes(BytesOf(*state)));
    }
    case VhostUserRequest::kSetVringEnable:
      return with(message.As<VhostUserVringState>(), [&](const auto& state) {
        return rings_->SetVringEnable(state);
      });
    case VhostUserRequest::kSetVringKick:
      return none(rings_->SetVringKick(message));
    case VhostUserRequest::kSetVringCall:
      return none(rings_->SetVringCall(message));
    case VhostUserRequest::kSetVringErr:
      return none(rings_->SetVringErr(message));
  }
  return absl::UnimplementedError(
      absl::StrCat(Name(message.request()), ": unknown"));
}

absl::Status VhostUserSession::SetFeatures(uint64_t features) {
  absl::Status status =
      device_->SetDriverFeatures(features & ~kVhostUserFProtocolFeatures);
  if (!status.ok()) return status;
  // vhost-user, "Ring states": without PROTOCOL_FEATURES rings are enabled.
  return (features & kVhostUserFProtocolFeatures) != 0 ? absl::OkStatus()
                                                       : rings_->EnableAll();
}

absl::Status VhostUserSession::SetProtocolFeatures(uint64_t features) {
  if ((features & ~kVhostUserProtocolFeatures) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_PROTOCOL_FEATURES: 0x%x: must be a subset of 0x%x",
                        features, kVhostUserProtocolFeatures));
  }
  protocol_features_ = features;
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetStatus(uint64_t status) {
  if (status > UINT8_MAX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_STATUS: 0x%x: must be at most 0xff", status));
  }
  if (status == 0) {
    rings_->Reset();
    return absl::OkStatus();
  }
  device_->SetConfigNotifier(config_change_);
  device_->SetStatus(static_cast<uint8_t>(status));
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
        "SET_BACKEND_REQ_FD: must come with a Unix socket");
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
    // An empty reply is an error (vhost-user, GET_CONFIG). Asking for more than
    // there is is allowed: front ends find the size that way.
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
        absl::StrFormat("SET_CONFIG: %d bytes: must be at most %d", header.size,
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
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_MEM_TABLE: %d regions with %d fds: must be one fd "
                        "each, at most %d",
                        header.count, message.fds.size(), kVhostUserMaxFds));
  }
  if (absl::Status status = message.CheckSize(
          sizeof(header) + header.count * sizeof(VhostUserRegion));
      !status.ok()) {
    return status;
  }
  if (rings_->IsSetUp()) {
    return absl::FailedPreconditionError(
        "SET_MEM_TABLE: a queue is set up: must be ADD_MEM_REG or REM_MEM_REG");
  }
  if (absl::Status status = regions_->RemoveAll(); !status.ok()) return status;
  for (size_t i = 0; i < header.count; ++i) {
    VhostUserRegion region;
    std::memcpy(&region,
                message.payload.data() + sizeof(header) + i * sizeof(region),
                sizeof(region));
    if (absl::Status status =
            regions_->Add(message.request(), region, message.fds[i].get());
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace guestmm
