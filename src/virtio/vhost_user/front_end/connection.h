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

// A front end's connection to the VMM: sends requests, finds the answer to
// each, and knows what became of the socket and of the process behind it. Its
// thread takes what comes: answers, calls, changes of the configuration, and
// the end of the connection or of the process.
//
//             Connect           no answer in time, a rule
//     kGone ───────────▶ kUp ──── broken, socket closed ────▶ kLost
//       ▲                 ▲               Connect               │ │
//       │                 └─────────────────────────────────────┘ │
//       └───────────────────── the process has ended ─────────────┘
//
// The lock guards the listener's state too, so that what it concludes from the
// link stays true while it acts on it. No one waits with the lock held.
class VhostUserConnection {
 public:
  enum class Link {
    kUp,
    kLost,  // the socket is closed; the process may be there, and act
    kGone,  // and the process has ended
  };

  // What the VMM offers.
  struct Offer {
    uint64_t features = 0;
    // Of those that both ends speak.
    uint64_t protocol_features = 0;
  };

  // Who has the connection. All is called with mutex() held.
  class Listener {
   public:
    virtual ~Listener() = default;

    // The link is no longer up: what was asked fails.
    virtual void OnLost() = 0;
    // The VMM's process has ended, so it touches nothing any more. After
    // OnLost.
    virtual void OnProcessEnded() = 0;
    // The VMM did what Post asked for.
    virtual void OnDone(VhostUserRequest request) = 0;
    virtual void OnConfigChange() = 0;

    // The eventfds by which the VMM calls, -1 for none. They may change while
    // they are watched, but each keeps its index: OnCall takes what is there.
    virtual std::vector<int> CallFds() const = 0;
    virtual void OnCall(size_t index) = 0;
  };

  // From here on the thread may call `listener`, which must outlive this. How
  // long to wait for an answer is `timeout`.
  VhostUserConnection(std::string path, Nanoseconds timeout,
                      Listener& listener);
  // Closes the connection.
  ~VhostUserConnection();

  // Connects to who listens at the path, watches its process, agrees on the
  // protocol, and has `introduce` go on from there. InvalidArgument if the path
  // is too long for a socket; FailedPrecondition if a protocol feature that
  // this needs is not offered; Unavailable if no one listens, answers in time,
  // or can be watched; else the error that the VMM answered with, or that of
  // `introduce`: after either the connection is lost. REQUIRES: not up, and no
  // other Connect.
  absl::Status Connect(absl::FunctionRef<absl::Status(const Offer&)> introduce)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Sends a request that has an answer of its own and waits for it: bytes, of
  // any count, or a number. Unavailable if the connection is lost, or gets lost
  // because there is no answer in time; InvalidArgument, and lost, if what
  // should be a number is none.
  absl::StatusOr<std::vector<std::byte>> Ask(VhostUserRequest request,
                                             std::span<const std::byte> payload)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<uint64_t> AskNumber(VhostUserRequest request)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends a request and waits until the VMM says what came of it, which may be
  // any error; besides as Ask.
  absl::Status Tell(VhostUserRequest request,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {}) ABSL_LOCKS_EXCLUDED(mutex_);
  // As Tell, but does not wait: the listener is told if it was done. If not,
  // the connection is lost, now or later.
  void Post(VhostUserRequest request, std::span<const std::byte> payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Closes the connection, if it is up, because of `why`.
  void Lose(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has the thread look again at which calls there are.
  void Wake() const { wake_.Wake(); }

  Link link() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return link_; }
  // OK while it is up, else Unavailable says why it was lost.
  absl::Status link_status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Of the process at the other end.
  pid_t pid() const ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& path() const { return path_; }

  // Held while the listener and notifiers are told, not while anyone waits.
  Mutex& mutex() const ABSL_LOCK_RETURNED(mutex_) { return mutex_; }

 private:
  // A request whose answer has not come yet.
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

  // The thread.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void HandleReplies() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleReply(VhostUserMessage& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What comes on the VMM's own channel.
  void HandleBackend() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleProcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a request has an answer of its own.
  static bool IsAnswered(VhostUserRequest request);
  static absl::Status Acknowledged(const Pending& pending);

  const std::string path_;
  const Nanoseconds timeout_;
  Listener& listener_;
  const WakeFd wake_;

  mutable Mutex mutex_;
  // An answer came, or the connection was lost.
  std::condition_variable_any changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Link link_ ABSL_GUARDED_BY(mutex_) = Link::kGone;
  // Why it is not up. No Status, which several threads would share.
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel channel_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel backend_ ABSL_GUARDED_BY(mutex_);
  // The VMM's.
  UniqueFd process_ ABSL_GUARDED_BY(mutex_);
  pid_t pid_ ABSL_GUARDED_BY(mutex_) = 0;
  // In the order in which they were sent, which is that of the answers.
  std::deque<std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_CONNECTION_H_
