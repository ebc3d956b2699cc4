#include "src/virtio/vhost_user/back_end/session.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/unix_listener.h"
#include "src/base/unix_socket.h"

namespace guestmm {
namespace {

// The data of epoll events: a queue's index for its kick, or one of these.
constexpr uint64_t kSocketEvent = VhostUserRings::kMaxQueues;
constexpr uint64_t kWakeEvent = VhostUserRings::kMaxQueues + 1;
constexpr uint64_t kHandshakeTimeout = VhostUserRings::kMaxQueues + 2;

// A timer that expires once, `delay` from now.
UniqueFd MakeTimer(Nanoseconds delay) {
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(delay);
  itimerspec expiry = {};
  expiry.it_value = {.tv_sec = seconds.count(),
                     .tv_nsec = (delay - seconds).count()};
  if (timer.valid() && timerfd_settime(timer.get(), 0, &expiry, nullptr) != 0) {
    return UniqueFd();
  }
  return timer;
}

// `status` with the request's name in front.
absl::Status Named(const std::string& request, const absl::Status& status) {
  return status.ok()
             ? status
             : absl::Status(status.code(),
                            absl::StrCat(request, ": ", status.message()));
}

// The header of GET_CONFIG and SET_CONFIG. InvalidArgument unless as many bytes
// follow as it says; OutOfRange if these are more than any configuration has.
absl::StatusOr<VhostUserConfigHeader> ConfigHeader(
    const VhostUserMessage& message) {
  VhostUserConfigHeader header = {};
  if (message.payload.size() < sizeof(header)) {
    return message.CheckSize(sizeof(header));
  }
  std::memcpy(&header, message.payload.data(), sizeof(header));
  if (header.size > kVhostUserMaxConfig) {
    return absl::OutOfRangeError(absl::StrFormat(
        "%d bytes: must be at most %d", header.size, kVhostUserMaxConfig));
  }
  absl::Status status = message.CheckSize(sizeof(header) + header.size);
  if (!status.ok()) return status;
  return header;
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
  on_change_();
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
    UniqueFd connection, const VhostUserSessionInfo& info,
    MakeDevice make_device, const VhostUserServerOptions& options,
    MemoryBudget& budget) {
  std::unique_ptr<VhostUserSession> session(
      new VhostUserSession(std::move(connection), info.id, options));
  if (absl::Status status = session->Start(make_device, budget, info.peer.uid);
      !status.ok()) {
    return status;
  }
  return session;
}

VhostUserSession::VhostUserSession(UniqueFd connection, uint64_t id,
                                   const VhostUserServerOptions& options)
    : id_(id),
      options_(options),
      channel_(std::move(connection)),
      poller_(epoll_create1(EPOLL_CLOEXEC)) {}

absl::Status VhostUserSession::Start(MakeDevice make_device,
                                     MemoryBudget& budget, uid_t uid) {
  if (!wake_.valid()) return SystemError("eventfd");
  if (!poller_.valid()) return SystemError("epoll_create1");
  absl::Status status = Poll(channel_.fd(), kSocketEvent);
  if (status.ok()) status = Poll(wake_.get(), kWakeEvent);
  if (status.ok() && options_.handshake_timeout > Nanoseconds(0)) {
    handshake_timer_ = MakeTimer(options_.handshake_timeout);
    status = handshake_timer_.valid()
                 ? Poll(handshake_timer_.get(), kHandshakeTimeout)
                 : SystemError("timerfd");
  }
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<GuestRam>> ram = GuestRam::CreateForeign(
      {.allow_unsealed = options_.allow_unsealed_memory});
  if (!ram.ok()) return ram.status();
  ram_ = *std::move(ram);
  regions_ = std::make_unique<VhostUserRegions>(
      *ram_,
      VhostUserRegions::Limits{
          .max_regions = options_.max_regions,
          .max_bytes = options_.max_guest_bytes,
          .guaranteed_bytes = options_.guaranteed_guest_bytes,
          .uid = uid},
      budget);
  workqueue_ = std::make_unique<ThreadWorkqueue>();
  device_ = make_device(*ram_, *workqueue_);
  GUESTMM_CHECK(device_ != nullptr) << "make_device made no device";
  rings_ = std::make_unique<VhostUserRings>(
      *device_, *ram_, *regions_, poller_.get(),
      [this](std::string_view reason, const absl::Status& why) {
        Refuse(std::string(reason), Named(std::string(reason), why));
      });
  rings_->SetConfigNotifier(config_change_);
  return absl::OkStatus();
}

absl::Status VhostUserSession::Poll(int fd, uint64_t event) {
  epoll_event polled = {.events = EPOLLIN, .data = {.u64 = event}};
  return epoll_ctl(poller_.get(), EPOLL_CTL_ADD, fd, &polled) == 0
             ? absl::OkStatus()
             : SystemError("epoll_ctl");
}

VhostUserSession::~VhostUserSession() {
  if (rings_ != nullptr) rings_->Reset();
}

void VhostUserSession::Stop() {
  stop_ = true;
  wake_.Wake();
}

VhostUserCounters VhostUserSession::counters() const {
  LockHolder hold(counting_);
  return counters_;
}

void VhostUserSession::Refuse(const std::string& request,
                              const absl::Status& why) {
  {
    LockHolder hold(counting_);
    ++counters_.refused;
    ++counters_.refused_by[request];
  }
  if (options_.on_refused) {
    options_.on_refused(id_, {request, why});
  }
}

void VhostUserSession::ConfigChanged() {
  const std::optional<VirtioFault> fault = device_->fault();
  if (!fault) return;
  rings_->NotifyError(fault->queue);
  Refuse("ring", Named("ring", fault->why));
}

absl::Status VhostUserSession::Run(int timeout_ms) {
  while (true) {
    std::array<epoll_event, 8> events;
    const int count =
        epoll_wait(poller_.get(), events.data(), events.size(), timeout_ms);
    if (count == 0) return absl::OkStatus();
    if (count < 0 && errno != EINTR) return SystemError("epoll_wait");
    if (stop_) return absl::CancelledError("the server ended the session");
    bool has_messages = false;
    bool is_late = false;
    for (int i = 0; i < count; ++i) {
      const uint64_t event = events[static_cast<size_t>(i)].data.u64;
      if (event == kSocketEvent) {
        has_messages = true;
      } else if (event == kHandshakeTimeout) {
        is_late = true;
      } else {
        rings_->Kick(event);
      }
    }
    // Messages after kicks: a message may disable the queue that was kicked.
    if (has_messages) {
      if (absl::Status status = HandleMessages(); !status.ok()) return status;
    }
    if (is_late && handshake_timer_.valid()) {
      return absl::DeadlineExceededError(
          absl::StrFormat("no message in the first %.3g s",
                          ToSeconds(options_.handshake_timeout)));
    }
  }
}

absl::Status VhostUserSession::HandleMessages() {
  // One message at a time, so that kicks and Stop are handled in between.
  absl::StatusOr<std::optional<VhostUserMessage>> message = channel_.Receive();
  if (!message.ok()) return message.status();
  if (!message->has_value()) return absl::OkStatus();
  // Closing it also ends its polling.
  handshake_timer_ = UniqueFd();
  return HandleMessage(**message);
}

absl::Status VhostUserSession::HandleMessage(VhostUserMessage& message) {
  {
    LockHolder hold(counting_);
    ++counters_.messages;
  }
  const std::string name = Name(message.request());
  const absl::StatusOr<Reply> reply = Dispatch(message);
  const absl::Status status = Named(name, reply.status());
  if (!status.ok()) {
    // Those without a name share one, so that guests cannot add to what is
    // counted without end.
    Refuse(IsNamed(message.request()) ? name : "unknown request", status);
  }
  if (reply.ok() && reply->has_value()) {
    return channel_.Send(message.header.request, kVhostUserReply, **reply);
  }
  if (message.needs_reply() &&
      (protocol_features_ & kVhostUserProtocolReplyAck) != 0) {
    // 0 is success. Other values are up to the back end: here, the status code.
    const auto code = static_cast<uint64_t>(status.code());
    return channel_.Send(message.header.request, kVhostUserReply,
                         BytesOf(code));
  }
  return status;
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
      return none(AddMemReg(message));
    case VhostUserRequest::kRemMemReg:
      return none(RemMemReg(message));

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
  return absl::UnimplementedError("is not supported");
}

absl::Status VhostUserSession::SetFeatures(uint64_t features) {
  const uint64_t offered =
      device_->DeviceFeatures() | kVhostUserFProtocolFeatures;
  if (const uint64_t other = features & ~offered; other != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("0x%x has %s: must be a subset of 0x%x", features,
                        FeatureNames(other), offered));
  }
  absl::Status status =
      device_->SetDriverFeatures(features & ~kVhostUserFProtocolFeatures);
  if (!status.ok()) return status;
  // vhost-user, "Ring states": without PROTOCOL_FEATURES rings are enabled.
  return (features & kVhostUserFProtocolFeatures) != 0 ? absl::OkStatus()
                                                       : rings_->EnableAll();
}

absl::Status VhostUserSession::SetProtocolFeatures(uint64_t features) {
  if ((features & ~kVhostUserProtocolFeatures) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "0x%x has %s: must be a subset of 0x%x", features,
        ProtocolFeatureNames(features & ~kVhostUserProtocolFeatures),
        kVhostUserProtocolFeatures));
  }
  protocol_features_ = features;
  return absl::OkStatus();
}

absl::Status VhostUserSession::SetStatus(uint64_t status) {
  if (status > UINT8_MAX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("0x%x: must be at most 0xff", status));
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
    return absl::InvalidArgumentError(
        absl::StrFormat("came with %d fds: must be 1", message.fds.size()));
  }
  const int fd = message.fds[0].get();
  if (!IsUnixStream(fd, /*listens=*/false)) {
    return absl::InvalidArgumentError("must come with a connected Unix socket");
  }
  // Open here, the front end's own end would outlive the front end, and the
  // session could not end. Nothing is read from a back-end channel; if it is
  // the connection, that cannot be written to any more.
  shutdown(fd, SHUT_RD);
  if (send(channel_.fd(), nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
      errno == EPIPE) {
    return absl::InvalidArgumentError("must not be the connection itself");
  }
  config_change_.Set(std::move(message.fds[0]));
  return absl::OkStatus();
}

absl::StatusOr<VhostUserSession::Reply> VhostUserSession::GetConfig(
    const VhostUserMessage& message) {
  const absl::StatusOr<VhostUserConfigHeader> header = ConfigHeader(message);
  absl::Status status = header.status();
  std::vector<std::byte> reply = message.payload;
  if (status.ok()) {
    status = device_->ReadConfig(header->offset,
                                 std::span(reply).subspan(sizeof(*header)));
  }
  if (!status.ok()) {
    // An empty reply is an error (vhost-user, GET_CONFIG). Asking for more than
    // there is is allowed: front ends find the size that way.
    if (!absl::IsOutOfRange(status)) {
      const std::string name = Name(message.request());
      Refuse(name, Named(name, status));
    }
    reply.clear();
  }
  return reply;
}

absl::Status VhostUserSession::SetConfig(const VhostUserMessage& message) {
  const absl::StatusOr<VhostUserConfigHeader> header = ConfigHeader(message);
  if (!header.ok()) return header.status();
  // 1 is for live migration (vhost-user, SET_CONFIG).
  if (header->flags > 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("flags 0x%x: must be 0 or 1", header->flags));
  }
  return device_->WriteConfig(
      header->offset, std::span(message.payload).subspan(sizeof(*header)));
}

absl::Status VhostUserSession::SetMemTable(const VhostUserMessage& message) {
  VhostUserMemTableHeader header = {};
  if (message.payload.size() < sizeof(header)) {
    return message.CheckSize(sizeof(header));
  }
  std::memcpy(&header, message.payload.data(), sizeof(header));
  if (header.count > kVhostUserMaxFds || header.count != message.fds.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d regions with %d fds: must be one fd "
                        "each, at most %d",
                        header.count, message.fds.size(), kVhostUserMaxFds));
  }
  if (absl::Status status = message.CheckSize(
          sizeof(header) + header.count * sizeof(VhostUserRegion));
      !status.ok()) {
    return status;
  }
  std::vector<VhostUserRegion> table(header.count);
  // memcpy takes no null pointer, even for no bytes.
  if (!table.empty()) {
    std::memcpy(table.data(), message.payload.data() + sizeof(header),
                table.size() * sizeof(VhostUserRegion));
  }
  return rings_->ChangeMemory(
      table, [&] { return regions_->Replace(table, message.fds); });
}

absl::Status VhostUserSession::AddMemReg(const VhostUserMessage& message) {
  if (message.fds.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("came with %d fds: must be 1", message.fds.size()));
  }
  const absl::StatusOr<VhostUserSingleRegion> single =
      message.As<VhostUserSingleRegion>();
  if (!single.ok()) return single.status();
  return regions_->Add(single->region, message.fds[0].get());
}

absl::Status VhostUserSession::RemMemReg(const VhostUserMessage& message) {
  // An fd that comes with it is ignored (vhost-user, REM_MEM_REG).
  const absl::StatusOr<VhostUserSingleRegion> single =
      message.As<VhostUserSingleRegion>();
  if (!single.ok()) return single.status();
  return rings_->ChangeMemory(regions_->TableWithout(single->region),
                              [&] { return regions_->Remove(single->region); });
}

}  // namespace guestmm
