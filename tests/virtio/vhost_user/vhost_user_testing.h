#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_VHOST_USER_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_VHOST_USER_TESTING_H_

// Helpers for the tests of vhost-user.

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "tests/testing/memfd.h"

namespace guestmm {

// Longer than anything that a test waits for: a wait that takes as long has
// failed.
inline constexpr int kPatienceMilliseconds = 60'000;

inline std::pair<UniqueFd, UniqueFd> MakeSocketPair() {
  std::array<int, 2> fds = {-1, -1};
  GUESTMM_CHECK(
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

inline UniqueFd MakeEventFd() {
  return UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

// Waits for one of `events` on `fd`. False if none came in time.
inline bool AwaitEvents(int fd, short events) {
  pollfd polled = {.fd = fd, .events = events, .revents = 0};
  int ready = 0;
  do {
    // A signal, as fuzzers send to themselves, starts the wait anew.
    ready = poll(&polled, 1, kPatienceMilliseconds);
  } while (ready < 0 && errno == EINTR);
  return ready == 1;
}

// The number of open file descriptors of this process.
inline size_t OpenFds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

// A front end that can send any message.
class ScriptedFrontEnd {
 public:
  ScriptedFrontEnd() = default;
  explicit ScriptedFrontEnd(UniqueFd socket) : channel_(std::move(socket)) {}

  int fd() const { return channel_.fd(); }

  template <typename T>
  void Send(VhostUserRequest request, const T& payload,
            std::span<const int> fds = {}, uint32_t flags = 0) {
    SendBytes(request, BytesOf(payload), fds, flags);
  }
  void SendBytes(VhostUserRequest request, std::span<const std::byte> payload,
                 std::span<const int> fds = {}, uint32_t flags = 0) {
    [[maybe_unused]] const absl::Status sent =
        channel_.Send(static_cast<uint32_t>(request), flags, payload, fds);
    if (serve) serve();
  }
  // Called when a message was sent. For a back end on the same thread.
  std::function<void()> serve = {};

  // The next message; nullopt once the other end has closed the connection.
  std::optional<VhostUserMessage> Receive() {
    while (AwaitEvents(channel_.fd(), POLLIN)) {
      auto message = channel_.Receive();
      if (!message.ok()) return std::nullopt;
      if (message->has_value()) return *std::move(*message);
    }
    return std::nullopt;
  }
  // Receives until the other end closes the connection.
  bool AwaitClose() {
    while (Receive()) {
    }
    return true;
  }

  // Sends a request that needs a reply. The reply's code; nullopt if the
  // connection ended.
  template <typename T>
  std::optional<absl::StatusCode> Tell(VhostUserRequest request,
                                       const T& payload,
                                       std::span<const int> fds = {}) {
    return TellBytes(request, BytesOf(payload), fds);
  }
  std::optional<absl::StatusCode> TellBytes(VhostUserRequest request,
                                            std::span<const std::byte> payload,
                                            std::span<const int> fds = {}) {
    SendBytes(request, payload, fds, kVhostUserNeedReply);
    const std::optional<uint64_t> code = Number();
    if (!code) return std::nullopt;
    return static_cast<absl::StatusCode>(*code);
  }
  std::optional<uint64_t> Ask(VhostUserRequest request) {
    SendBytes(request, {});
    return Number();
  }

  // The first messages of a front end that follows the protocol.
  void ShakeHands() {
    Send(VhostUserRequest::kSetProtocolFeatures, kVhostUserProtocolFeatures);
    SendBytes(VhostUserRequest::kSetOwner, {});
  }

 private:
  std::optional<uint64_t> Number() {
    const std::optional<VhostUserMessage> reply = Receive();
    if (!reply || !reply->As<uint64_t>().ok()) return std::nullopt;
    return *reply->As<uint64_t>();
  }

  VhostUserChannel channel_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_VHOST_USER_TESTING_H_
