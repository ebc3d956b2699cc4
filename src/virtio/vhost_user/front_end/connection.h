#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_CONNECTION_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_CONNECTION_H_

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"

namespace guestmm {

// The front end's connection to the VMM: sends requests, matches replies, and
// tracks the socket and the process behind it. Its thread receives replies,
// calls and configuration changes, and detects the end of the connection or of
// the process.
//
//            Connect           reply timed out, protocol
//     kGone ───────────▶ kUp ─── violated, socket closed ───▶ kLost
//       ▲                 ▲               Connect               │ │
//       │                 └─────────────────────────────────────┘ │
//       └───────────────────── the process has exited ────────────┘
//
// The lock guards the listener's state too, so that the link cannot change
// while the listener acts on it. No thread blocks with the lock held.
class VhostUserConnection {
 public:
  enum class Link {
    kUp,
    kLost,  // the socket is closed; the process may still be running
    kGone,  // the process has exited
  };

  // The features that the VMM offers.
  struct Offer {
    uint64_t features = 0;
    // Only those that both ends implement.
    uint64_t protocol_features = 0;
  };

  // The owner of the connection. All methods are called with mutex() held.
  class Listener {
   public:
    virtual ~Listener() = default;

    // The link is no longer up: pending requests fail.
    virtual void OnLost() = 0;
    // The VMM's process has exited, so it no longer touches memory. Called
    // after OnLost.
    virtual void OnProcessEnded() = 0;
    // The VMM has acknowledged a request sent by Post.
    virtual void OnDone(VhostUserRequest request) = 0;
    virtual void OnConfigChange() = 0;

    // The eventfds on which the VMM calls; -1 for none. They may change while
    // they are polled, but each keeps its index: OnCall uses the current one.
    virtual std::vector<int> CallFds() const = 0;
    virtual void OnCall(size_t index) = 0;
  };

  // From now on the thread may call `listener`, which must outlive this.
  // `timeout` is how long to wait for a reply.
  VhostUserConnection(std::string path, Nanoseconds timeout,
                      Listener& listener);
  // Closes the connection.
  ~VhostUserConnection();

  // Connects to the socket at the path, watches the VMM's process, negotiates
  // the protocol, and calls `introduce` to continue. InvalidArgument if the
  // path is too long for a socket; FailedPrecondition if a required protocol
  // feature is not offered; Unavailable if no VMM listens there, it does not
  // reply in time, or its process cannot be watched; else the VMM's or
  // `introduce`'s error, after which the connection is lost. REQUIRES: the link
  // is not up, and no other Connect is in progress.
  absl::Status Connect(absl::FunctionRef<absl::Status(const Offer&)> introduce)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Sends a request that has a reply of its own, and waits for the reply: any
  // number of bytes, or a number. Unavailable if the connection is lost, or is
  // lost now because there is no reply in time. InvalidArgument if a number was
  // expected and the reply is none; this also loses the connection.
  absl::StatusOr<std::vector<std::byte>> Ask(VhostUserRequest request,
                                             std::span<const std::byte> payload)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<uint64_t> AskNumber(VhostUserRequest request)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends a request and waits for the acknowledgement. Returns the VMM's error
  // if the VMM refuses it; else errors as Ask.
  absl::Status Tell(VhostUserRequest request,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {}) ABSL_LOCKS_EXCLUDED(mutex_);
  // As Tell, but does not wait: OnDone is called when the request was
  // acknowledged. If it fails, now or later, the connection is lost.
  void Post(VhostUserRequest request, std::span<const std::byte> payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // If the link is up, closes the connection for the reason `why`.
  void Lose(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the thread call CallFds again.
  void Wake() const { wake_.Wake(); }

  Link link() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return link_; }
  // OK while the link is up; else Unavailable, with the reason.
  absl::Status link_status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The process at the other end.
  pid_t pid() const ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& path() const { return path_; }

  // Held while the listener and notifiers are called, not while a caller waits.
  Mutex& mutex() const ABSL_LOCK_RETURNED(mutex_) { return mutex_; }

 private:
  // A request whose reply has not arrived yet.
  struct Pending {
    VhostUserRequest request;
    bool is_posted = false;
    bool done = false;
    absl::Status status;
    std::vector<std::byte> reply;
  };

  absl::StatusOr<UniqueFd> WatchPeer(int socket) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Offer> ShakeHands(int backend_end) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::StatusOr<std::vector<std::byte>> Exchange(
      VhostUserRequest request, uint32_t flags,
      std::span<const std::byte> payload, std::span<const int> fds)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Send(VhostUserRequest request, uint32_t flags,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status LostError() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The thread's function.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void HandleReplies() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleReply(VhostUserMessage& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Handles messages on the VMM's own channel.
  void HandleBackend() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleProcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if a request has a reply of its own.
  static bool IsAnswered(VhostUserRequest request);
  static absl::Status Acknowledged(const Pending& pending);

  const std::string path_;
  const Nanoseconds timeout_;
  Listener& listener_;
  const WakeFd wake_;

  mutable Mutex mutex_;
  // Signalled when a reply arrives or the connection is lost.
  std::condition_variable_any changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Link link_ ABSL_GUARDED_BY(mutex_) = Link::kGone;
  // The reason why the link is not up. A string, since a Status would be shared
  // between threads.
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel channel_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel backend_ ABSL_GUARDED_BY(mutex_);
  // A pidfd of the VMM.
  UniqueFd process_ ABSL_GUARDED_BY(mutex_);
  pid_t pid_ ABSL_GUARDED_BY(mutex_) = 0;
  // In the order sent, in which the replies arrive, too.
  std::deque<std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_CONNECTION_H_
