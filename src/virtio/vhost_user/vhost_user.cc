#include "guestmm/virtio/vhost_user/vhost_user.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// A control message with room for the fds of one message.
union FdControl {
  std::array<char, CMSG_SPACE(kVhostUserMaxFds * sizeof(int))> bytes;
  cmsghdr alignment;
};

std::string Name(const VhostUserHeader& header) {
  return guestmm::Name(static_cast<VhostUserRequest>(header.request));
}

// Appends the fds that came with `message` to `fds`.
void TakeFds(msghdr& message, std::vector<UniqueFd>& fds) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

std::string Name(VhostUserRequest request) {
  switch (request) {
    case VhostUserRequest::kGetFeatures:
      return "GET_FEATURES";
    case VhostUserRequest::kSetFeatures:
      return "SET_FEATURES";
    case VhostUserRequest::kSetOwner:
      return "SET_OWNER";
    case VhostUserRequest::kResetOwner:
      return "RESET_OWNER";
    case VhostUserRequest::kSetMemTable:
      return "SET_MEM_TABLE";
    case VhostUserRequest::kSetVringNum:
      return "SET_VRING_NUM";
    case VhostUserRequest::kSetVringAddr:
      return "SET_VRING_ADDR";
    case VhostUserRequest::kSetVringBase:
      return "SET_VRING_BASE";
    case VhostUserRequest::kGetVringBase:
      return "GET_VRING_BASE";
    case VhostUserRequest::kSetVringKick:
      return "SET_VRING_KICK";
    case VhostUserRequest::kSetVringCall:
      return "SET_VRING_CALL";
    case VhostUserRequest::kSetVringErr:
      return "SET_VRING_ERR";
    case VhostUserRequest::kGetProtocolFeatures:
      return "GET_PROTOCOL_FEATURES";
    case VhostUserRequest::kSetProtocolFeatures:
      return "SET_PROTOCOL_FEATURES";
    case VhostUserRequest::kGetQueueNum:
      return "GET_QUEUE_NUM";
    case VhostUserRequest::kSetVringEnable:
      return "SET_VRING_ENABLE";
    case VhostUserRequest::kSetBackendReqFd:
      return "SET_BACKEND_REQ_FD";
    case VhostUserRequest::kGetConfig:
      return "GET_CONFIG";
    case VhostUserRequest::kSetConfig:
      return "SET_CONFIG";
    case VhostUserRequest::kResetDevice:
      return "RESET_DEVICE";
    case VhostUserRequest::kGetMaxMemSlots:
      return "GET_MAX_MEM_SLOTS";
    case VhostUserRequest::kAddMemReg:
      return "ADD_MEM_REG";
    case VhostUserRequest::kRemMemReg:
      return "REM_MEM_REG";
    case VhostUserRequest::kSetStatus:
      return "SET_STATUS";
    case VhostUserRequest::kGetStatus:
      return "GET_STATUS";
  }
  return absl::StrCat("request ", static_cast<uint32_t>(request));
}

absl::Status VhostUserMessage::CheckSize(size_t bytes) const {
  if (payload.size() == bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: payload of %d bytes: must be %d", Name(request()),
                      payload.size(), bytes));
}

absl::Status VhostUserChannel::Send(uint32_t request, uint32_t flags,
                                    std::span<const std::byte> payload,
                                    std::span<const int> fds) const {
  GUESTMM_CHECK(payload.size() <= kVhostUserMaxPayload &&
                fds.size() <= kVhostUserMaxFds)
      << "a message of " << payload.size() << " bytes and " << fds.size()
      << " fds";
  VhostUserHeader header = {.request = request,
                            .flags = flags | kVhostUserVersion,
                            .size = static_cast<uint32_t>(payload.size())};
  std::array<iovec, 2> parts = {
      iovec{&header, sizeof(header)},
      // sendmsg() only reads from it.
      iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  msghdr message = {};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  FdControl control = {};
  if (!fds.empty()) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(sizeof(header) + payload.size())) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat(Name(header), ": could not be sent: ",
                   sent >= 0 || errno == EAGAIN ? "the other end does not read"
                                                : std::strerror(errno)));
}

absl::StatusOr<std::optional<VhostUserMessage>> VhostUserChannel::Receive() {
  while (true) {
    VhostUserHeader header = {};
    size_t wanted = sizeof(header);
    if (received_ >= sizeof(header)) {
      std::memcpy(&header, bytes_.data(), sizeof(header));
      if ((header.flags & kVhostUserVersionMask) != kVhostUserVersion) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "%s: version %d: must be %d", Name(header),
            header.flags & kVhostUserVersionMask, kVhostUserVersion));
      }
      if (header.size > kVhostUserMaxPayload) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: payload of %d bytes: must be at most %d",
                            Name(header), header.size, kVhostUserMaxPayload));
      }
      wanted += header.size;
      if (received_ == wanted) {
        VhostUserMessage message = {
            .header = header,
            .payload = {bytes_.begin() + sizeof(header),
                        bytes_.begin() + static_cast<ptrdiff_t>(wanted)},
            .fds = std::exchange(fds_, {})};
        received_ = 0;
        return message;
      }
    }

    // Do not read past this message: fds arrive with the bytes that they were
    // sent with.
    iovec part = {bytes_.data() + received_, wanted - received_};
    FdControl control = {};
    msghdr socket_message = {};
    socket_message.msg_iov = &part;
    socket_message.msg_iovlen = 1;
    socket_message.msg_control = control.bytes.data();
    socket_message.msg_controllen = control.bytes.size();
    const ssize_t got =
        recvmsg(fd(), &socket_message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return std::nullopt;
    }
    if (got < 0 && errno != ECONNRESET) {
      return absl::UnavailableError(
          absl::StrCat("recvmsg failed: ", std::strerror(errno)));
    }
    if (got <= 0) {
      if (received_ == 0) {
        return absl::UnavailableError("the other end closed the connection");
      }
      return absl::DataLossError(
          absl::StrFormat("the connection was closed %d bytes into a message "
                          "of %d or more",
                          received_, wanted));
    }
    TakeFds(socket_message, fds_);
    if ((socket_message.msg_flags & MSG_CTRUNC) != 0 ||
        fds_.size() > kVhostUserMaxFds) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a message came with more than %d fds, or with more "
                          "than this process may open",
                          kVhostUserMaxFds));
    }
    received_ += static_cast<size_t>(got);
  }
}

}  // namespace guestmm
