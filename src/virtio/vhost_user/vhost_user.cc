#include "guestmm/virtio/vhost_user/vhost_user.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// By number (vhost-user, front-end message types), including those that are
// not implemented here.
constexpr std::array<std::string_view, 45> kRequestNames = {
    "",
    "GET_FEATURES",
    "SET_FEATURES",
    "SET_OWNER",
    "RESET_OWNER",
    "SET_MEM_TABLE",
    "SET_LOG_BASE",
    "SET_LOG_FD",
    "SET_VRING_NUM",
    "SET_VRING_ADDR",
    "SET_VRING_BASE",
    "GET_VRING_BASE",
    "SET_VRING_KICK",
    "SET_VRING_CALL",
    "SET_VRING_ERR",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_VRING_ENABLE",
    "SEND_RARP",
    "NET_SET_MTU",
    "SET_BACKEND_REQ_FD",
    "IOTLB_MSG",
    "SET_VRING_ENDIAN",
    "GET_CONFIG",
    "SET_CONFIG",
    "CREATE_CRYPTO_SESSION",
    "CLOSE_CRYPTO_SESSION",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_END",
    "GET_INFLIGHT_FD",
    "SET_INFLIGHT_FD",
    "GPU_SET_SOCKET",
    "RESET_DEVICE",
    "VRING_KICK",
    "GET_MAX_MEM_SLOTS",
    "ADD_MEM_REG",
    "REM_MEM_REG",
    "SET_STATUS",
    "GET_STATUS",
    "GET_SHARED_OBJECT",
    "SET_DEVICE_STATE_FD",
    "CHECK_DEVICE_STATE",
    "GET_SHMEM_CONFIG"};

// A control message with room for the fds of one message.
union FdControl {
  std::array<char, CMSG_SPACE(kVhostUserMaxFds * sizeof(int))> bytes;
  cmsghdr alignment;
};

struct BitName {
  int bit;
  std::string_view name;
};

std::string BitNames(uint64_t bits, std::span<const BitName> names) {
  std::string text;
  for (; bits != 0; bits &= bits - 1) {
    const int bit = std::countr_zero(bits);
    const auto* const named =
        std::find_if(names.data(), names.data() + names.size(),
                     [&](const BitName& name) { return name.bit == bit; });
    if (!text.empty()) text += ", ";
    text += named != names.data() + names.size() ? std::string(named->name)
                                                 : absl::StrCat("bit ", bit);
  }
  return text;
}

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

bool IsNamed(VhostUserRequest request) {
  const auto number = static_cast<uint32_t>(request);
  return number > 0 && number < kRequestNames.size();
}

std::string Name(VhostUserRequest request) {
  const auto number = static_cast<uint32_t>(request);
  return IsNamed(request) ? std::string(kRequestNames[number])
                          : absl::StrCat("request ", number);
}

std::string FeatureNames(uint64_t features) {
  // virtio 1.3 §6; VHOST_F_LOG_ALL is vhost-user's.
  static constexpr BitName kNames[] = {{24, "VIRTIO_F_NOTIFY_ON_EMPTY"},
                                       {26, "VHOST_F_LOG_ALL"},
                                       {27, "VIRTIO_F_ANY_LAYOUT"},
                                       {28, "VIRTIO_F_INDIRECT_DESC"},
                                       {29, "VIRTIO_F_EVENT_IDX"},
                                       {30, "VHOST_USER_F_PROTOCOL_FEATURES"},
                                       {32, "VIRTIO_F_VERSION_1"},
                                       {33, "VIRTIO_F_ACCESS_PLATFORM"},
                                       {34, "VIRTIO_F_RING_PACKED"},
                                       {35, "VIRTIO_F_IN_ORDER"},
                                       {36, "VIRTIO_F_ORDER_PLATFORM"},
                                       {37, "VIRTIO_F_SR_IOV"},
                                       {38, "VIRTIO_F_NOTIFICATION_DATA"},
                                       {39, "VIRTIO_F_NOTIF_CONFIG_DATA"},
                                       {40, "VIRTIO_F_RING_RESET"},
                                       {41, "VIRTIO_F_ADMIN_VQ"}};
  return BitNames(features, kNames);
}

std::string ProtocolFeatureNames(uint64_t features) {
  static constexpr BitName kNames[] = {{0, "MQ"},
                                       {1, "LOG_SHMFD"},
                                       {2, "RARP"},
                                       {3, "REPLY_ACK"},
                                       {4, "MTU"},
                                       {5, "BACKEND_REQ"},
                                       {6, "CROSS_ENDIAN"},
                                       {7, "CRYPTO_SESSION"},
                                       {8, "PAGEFAULT"},
                                       {9, "CONFIG"},
                                       {10, "BACKEND_SEND_FD"},
                                       {11, "HOST_NOTIFIER"},
                                       {12, "INFLIGHT_SHMFD"},
                                       {13, "RESET_DEVICE"},
                                       {14, "INBAND_NOTIFICATIONS"},
                                       {15, "CONFIGURE_MEM_SLOTS"},
                                       {16, "STATUS"},
                                       {17, "XEN_MMAP"},
                                       {18, "SHARED_OBJECT"},
                                       {19, "DEVICE_STATE"}};
  return BitNames(features, kNames);
}

absl::Status VhostUserMessage::CheckSize(size_t bytes) const {
  if (payload.size() == bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "payload of %d bytes: must be %d", payload.size(), bytes));
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
