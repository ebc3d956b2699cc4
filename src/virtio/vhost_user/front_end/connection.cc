#include "src/virtio/vhost_user/front_end/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/base/unix_socket.h"

// Kernel headers may be older than the kernel. The number is the same on all
// architectures except alpha.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace guestmm {
namespace {

// The protocol features that the VMM must offer.
constexpr uint64_t kNeededOfVmm =
    kVhostUserProtocolReplyAck | kVhostUserProtocolBackendReq |
    kVhostUserProtocolMemSlots | kVhostUserProtocolStatus;

}  // namespace

VhostUserConnection::VhostUserConnection(std::string path, Nanoseconds timeout,
                                         Listener& listener)
    : path_(std::move(path)),
      timeout_(timeout),
      listener_(listener),
      thread_([this] { Run(); }) {
  GUESTMM_CHECK(wake_.valid()) << "eventfd: " << std::strerror(errno);
}

VhostUserConnection::~VhostUserConnection() {
  {
    LockHolder hold(mutex_);
    stop_ = true;
  }
  wake_.Wake();
  thread_.join();
}

absl::Status VhostUserConnection::Connect(
    absl::FunctionRef<absl::Status(const Offer&)> introduce) {
  const absl::StatusOr<sockaddr_un> address = UnixAddress(path_);
  if (!address.ok()) return address.status();
  UniqueFd socket(
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return SystemError("socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address),
              sizeof(*address)) != 0) {
    return SystemError(absl::StrCat("connecting to ", path_));
  }
  absl::StatusOr<UniqueFd> process = WatchPeer(socket.get());
  if (!process.ok()) return process.status();
  std::array<int, 2> pair = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return SystemError("socketpair");
  }
  // Kept open until the end: closing it earlier would hide the VMM's other
  // errors.
  const UniqueFd backend_end(pair[1]);
  {
    LockHolder hold(mutex_);
    channel_ = VhostUserChannel(std::move(socket));
    backend_ = VhostUserChannel(UniqueFd(pair[0]));
    process_ = *std::move(process);
    link_ = Link::kUp;
    lost_.clear();
  }
  wake_.Wake();
  const absl::StatusOr<Offer> offer = ShakeHands(backend_end.get());
  absl::Status status = offer.ok() ? introduce(*offer) : offer.status();
  if (!status.ok()) {
    LockHolder hold(mutex_);
    Lose(status);
  }
  return status;
}

// Returns a pidfd of the process at the other end of `socket`. The pid may have
// been reused, but only if that process has exited, which closed the socket.
absl::StatusOr<UniqueFd> VhostUserConnection::WatchPeer(int socket) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return SystemError("getsockopt(SO_PEERCRED)");
  }
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0U)));
  if (!process.valid()) {
    return SystemError(absl::StrFormat(
        "pidfd_open of process %d, the VMM at %s,", peer.pid, path_));
  }
  pollfd polled = {.fd = socket, .events = POLLRDHUP, .revents = 0};
  if (poll(&polled, 1, 0) != 0) {
    return absl::UnavailableError(
        absl::StrCat("the VMM at ", path_, " closed the connection"));
  }
  LockHolder hold(mutex_);
  pid_ = peer.pid;
  return process;
}

absl::StatusOr<VhostUserConnection::Offer> VhostUserConnection::ShakeHands(
    int backend_end) {
  const absl::StatusOr<uint64_t> features =
      AskNumber(VhostUserRequest::kGetFeatures);
  if (!features.ok()) return features.status();
  uint64_t protocol = 0;
  if ((*features & kVhostUserFProtocolFeatures) != 0) {
    const absl::StatusOr<uint64_t> offered =
        AskNumber(VhostUserRequest::kGetProtocolFeatures);
    if (!offered.ok()) return offered.status();
    protocol = *offered;
  }
  if ((protocol & kNeededOfVmm) != kNeededOfVmm) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the VMM at %s offers protocol features 0x%x: must include 0x%x", path_,
        protocol, kNeededOfVmm));
  }
  protocol &= kVhostUserProtocolFeatures;
  {
    LockHolder hold(mutex_);
    if (absl::Status status =
            Send(VhostUserRequest::kSetProtocolFeatures, 0, BytesOf(protocol));
        !status.ok()) {
      return status;
    }
  }
  absl::Status status = Tell(VhostUserRequest::kSetOwner, {});
  if (status.ok()) {
    status = Tell(VhostUserRequest::kSetBackendReqFd, {},
                  std::span(&backend_end, 1));
  }
  if (!status.ok()) return status;
  return Offer{.features = *features & ~kVhostUserFProtocolFeatures,
               .protocol_features = protocol};
}

absl::StatusOr<std::vector<std::byte>> VhostUserConnection::Ask(
    VhostUserRequest request, std::span<const std::byte> payload) {
  return Exchange(request, 0, payload, {});
}

absl::StatusOr<uint64_t> VhostUserConnection::AskNumber(
    VhostUserRequest request) {
  absl::StatusOr<std::vector<std::byte>> reply = Ask(request, {});
  if (!reply.ok()) return reply.status();
  if (reply->size() != sizeof(uint64_t)) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrFormat("%s: reply of %d bytes: must be %d", Name(request),
                        reply->size(), sizeof(uint64_t)));
    LockHolder hold(mutex_);
    Lose(status);
    return status;
  }
  uint64_t number = 0;
  std::memcpy(&number, reply->data(), sizeof(number));
  return number;
}

absl::Status VhostUserConnection::Tell(VhostUserRequest request,
                                       std::span<const std::byte> payload,
                                       std::span<const int> fds) {
  return Exchange(request, kVhostUserNeedReply, payload, fds).status();
}

void VhostUserConnection::Post(VhostUserRequest request,
                               std::span<const std::byte> payload) {
  if (!Send(request, kVhostUserNeedReply, payload).ok()) return;
  const auto pending = std::make_shared<Pending>();
  pending->request = request;
  pending->is_posted = true;
  pending_.push_back(pending);
}

absl::StatusOr<std::vector<std::byte>> VhostUserConnection::Exchange(
    VhostUserRequest request, uint32_t flags,
    std::span<const std::byte> payload, std::span<const int> fds) {
  LockHolder hold(mutex_);
  if (absl::Status status = Send(request, flags, payload, fds); !status.ok()) {
    return status;
  }
  const auto pending = std::make_shared<Pending>();
  pending->request = request;
  pending_.push_back(pending);
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  while (!pending->done) {
    if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout &&
        !pending->done) {
      Lose(absl::UnavailableError(absl::StrFormat(
          "%s: no reply in %d ms", Name(request),
          std::chrono::duration_cast<std::chrono::milliseconds>(timeout_)
              .count())));
    }
  }
  if (!pending->status.ok()) return pending->status;
  return std::move(pending->reply);
}

absl::Status VhostUserConnection::Send(VhostUserRequest request, uint32_t flags,
                                       std::span<const std::byte> payload,
                                       std::span<const int> fds) {
  if (link_ != Link::kUp) return LostError();
  absl::Status status =
      channel_.Send(static_cast<uint32_t>(request), flags, payload, fds);
  if (!status.ok()) Lose(status);
  return status;
}

void VhostUserConnection::Lose(const absl::Status& why) {
  if (link_ != Link::kUp) return;
  link_ = Link::kLost;
  lost_ = absl::StrCat(why.message());
  // The polling thread still holds the socket open.
  shutdown(channel_.fd(), SHUT_RDWR);
  channel_ = VhostUserChannel();
  backend_ = VhostUserChannel();
  for (const auto& pending : pending_) {
    pending->done = true;
    pending->status = LostError();
  }
  pending_.clear();
  listener_.OnLost();
  changed_.notify_all();
  wake_.Wake();
}

absl::Status VhostUserConnection::LostError() const {
  return absl::UnavailableError(
      absl::StrCat("the connection to ", path_, " was lost: ", lost_));
}

absl::Status VhostUserConnection::link_status() const {
  LockHolder hold(mutex_);
  if (link_ == Link::kUp) return absl::OkStatus();
  return absl::UnavailableError(lost_);
}

pid_t VhostUserConnection::pid() const {
  LockHolder hold(mutex_);
  return pid_;
}

void VhostUserConnection::Run() {
  // The first entries are wake, process, socket and the VMM's own channel.
  constexpr size_t kFirstCall = 4;
  std::vector<pollfd> polled;
  while (true) {
    {
      LockHolder hold(mutex_);
      if (stop_) return;
      const auto add = [&](int fd) {
        polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
      };
      polled.clear();
      add(wake_.get());
      add(link_ == Link::kGone ? -1 : process_.get());
      add(channel_.fd());
      add(backend_.fd());
      for (const int fd : listener_.CallFds()) add(fd);
    }
    poll(polled.data(), polled.size(), -1);
    if (polled[0].revents != 0) {
      wake_.Drain();
    }
    // The fds may have been replaced since poll(), so nothing here blocks on
    // them.
    LockHolder hold(mutex_);
    for (size_t i = 0; i + kFirstCall < polled.size(); ++i) {
      if (polled[i + kFirstCall].revents != 0) listener_.OnCall(i);
    }
    if (polled[2].revents != 0) HandleReplies();
    if (polled[3].revents != 0) HandleBackend();
    if (polled[1].revents != 0) HandleProcess();
  }
}

void VhostUserConnection::HandleReplies() {
  while (link_ == Link::kUp) {
    absl::StatusOr<std::optional<VhostUserMessage>> message =
        channel_.Receive();
    if (!message.ok()) return Lose(message.status());
    if (!message->has_value()) return;
    HandleReply(**message);
  }
}

void VhostUserConnection::HandleReply(VhostUserMessage& message) {
  if (pending_.empty() || pending_.front()->request != message.request() ||
      (message.header.flags & kVhostUserReply) == 0) {
    return Lose(absl::InvalidArgumentError(
        absl::StrCat("the VMM replied to ", Name(message.request()),
                     ", which was not requested")));
  }
  const std::shared_ptr<Pending> pending = pending_.front();
  pending_.pop_front();
  pending->done = true;
  pending->reply = std::move(message.payload);
  const bool is_answer = IsAnswered(pending->request);
  if (!is_answer) pending->status = Acknowledged(*pending);
  changed_.notify_all();
  if (!pending->is_posted) return;
  if (!pending->status.ok()) return Lose(pending->status);
  listener_.OnDone(pending->request);
}

bool VhostUserConnection::IsAnswered(VhostUserRequest request) {
  switch (request) {
    case VhostUserRequest::kGetFeatures:
    case VhostUserRequest::kGetProtocolFeatures:
    case VhostUserRequest::kGetQueueNum:
    case VhostUserRequest::kGetStatus:
    case VhostUserRequest::kGetConfig:
      return true;
    default:
      return false;
  }
}

absl::Status VhostUserConnection::Acknowledged(const Pending& pending) {
  uint64_t number = 0;
  if (pending.reply.size() != sizeof(number)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: reply of %d bytes: must be %d", Name(pending.request),
        pending.reply.size(), sizeof(number)));
  }
  std::memcpy(&number, pending.reply.data(), sizeof(number));
  if (number == 0) return absl::OkStatus();
  // Our own VMM replies with a status code.
  constexpr auto kLastCode =
      static_cast<uint64_t>(absl::StatusCode::kUnauthenticated);
  const auto code = number <= kLastCode ? static_cast<absl::StatusCode>(number)
                                        : absl::StatusCode::kInternal;
  return absl::Status(code,
                      absl::StrFormat("%s: the VMM replied with error %d, %s",
                                      Name(pending.request), number,
                                      absl::StatusCodeToString(code)));
}

void VhostUserConnection::HandleBackend() {
  while (link_ == Link::kUp) {
    absl::StatusOr<std::optional<VhostUserMessage>> message =
        backend_.Receive();
    if (!message.ok()) {
      return Lose(absl::UnavailableError(
          absl::StrCat("the VMM's own channel: ", message.status().message())));
    }
    if (!message->has_value()) return;
    uint64_t error = 0;
    if ((*message)->header.request == kVhostUserBackendConfigChange) {
      listener_.OnConfigChange();
    } else {
      error = static_cast<uint64_t>(absl::StatusCode::kUnimplemented);
    }
    if ((*message)->needs_reply()) {
      // If sending fails, the connection is closed, which the socket shows.
      [[maybe_unused]] const absl::Status sent = backend_.Send(
          (*message)->header.request, kVhostUserReply, BytesOf(error));
    }
  }
}

void VhostUserConnection::HandleProcess() {
  if (link_ == Link::kGone || !process_.valid()) return;
  pollfd polled = {.fd = process_.get(), .events = POLLIN, .revents = 0};
  if (poll(&polled, 1, 0) != 1) return;
  Lose(absl::UnavailableError(
      absl::StrFormat("process %d, the VMM, has exited", pid_)));
  link_ = Link::kGone;
  listener_.OnProcessEnded();
}

}  // namespace guestmm
