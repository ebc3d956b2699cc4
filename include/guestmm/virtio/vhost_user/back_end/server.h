#ifndef GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_
#define GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_

// The device's side of vhost-user: guests in other processes connect, share
// their memory and their queues, and each is served by a device of its own.
//
//   VhostUserServer server(
//       [](const GuestRam& ram, Hypervisor& hypervisor, Workqueue& workqueue) {
//         return std::make_unique<BalloonDevice>(ram, hypervisor, workqueue);
//       });
//   server.Listen("/run/balloon.sock");

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

// What a session, or all of them, did so far.
struct VhostUserCounters {
  uint64_t messages = 0;  // that came whole
  uint64_t refused = 0;   // of which were answered with an error
  uint64_t reports = 0;   // batches that the device discarded
  uint64_t bytes = 0;     // that were given back
  uint64_t failures = 0;  // ranges that the host refused

  VhostUserCounters& operator+=(const VhostUserCounters& other);
};

// One guest's connection.
struct VhostUserSessionInfo {
  uint64_t id = 0;  // from 1
  pid_t pid = 0;    // of the process that connected; 0 if it is not known
  VhostUserCounters counters;
};

struct VhostUserServerOptions {
  // Connections past that are closed at once.
  size_t max_sessions = 32;
  // Of one guest: its regions, and the sum of their sizes.
  size_t max_regions = 256;
  uint64_t max_guest_bytes = kTiB;
  // Told when a session begins, and when it has ended and nothing of it is
  // left, with the reason: Unavailable if the guest closed the connection or
  // died, Cancelled if the server ended it, else what the guest did wrong. Run
  // on threads of the server, and must not call it.
  std::function<void(const VhostUserSessionInfo&)> on_begin = {};
  std::function<void(const VhostUserSessionInfo&, const absl::Status&)> on_end =
      {};
};

class VhostUserSession;

// Serves any number of guests at a time, each on two threads of its own: one
// for its socket and its kicks, one for the device's work.
//
// Guests are not trusted. A request that is malformed, out of order or cannot
// be met is answered with an error; where no answer was asked for, and where
// the next message cannot be told any more, the session ends. No session harms
// another one. A guest that dies closes its socket: that resets its device and
// unmaps its memory.
class VhostUserServer {
 public:
  // Makes the device of one guest; all three outlive it. Guest RAM is foreign
  // (GuestRam::CreateForeign), and has no region yet. Must not call the server.
  using MakeDevice = std::function<std::unique_ptr<VirtioDevice>(
      const GuestRam&, Hypervisor&, Workqueue&)>;

  explicit VhostUserServer(MakeDevice make_device,
                           VhostUserServerOptions options = {});
  // Stops.
  ~VhostUserServer();
  VhostUserServer(const VhostUserServer&) = delete;
  VhostUserServer& operator=(const VhostUserServer&) = delete;

  // Takes connections at `path` from here on. A socket that is left over there
  // from a server that has gone is replaced. InvalidArgument if the path is too
  // long, or there is something else; AlreadyExists if a server listens there;
  // Unavailable names what else the host refused. REQUIRES: called once.
  absl::Status Listen(const std::string& path);

  // Serves a guest that is connected already. ResourceExhausted if there are
  // max_sessions; Unavailable if the host has no more threads or file
  // descriptors.
  absl::Status Serve(UniqueFd connection);

  // Ends all sessions and removes the socket. No more come after that. Again:
  // no effect.
  void Stop();

  // Those that have not ended.
  std::vector<VhostUserSessionInfo> sessions() const;
  // Of all sessions, ended or not.
  VhostUserCounters counters() const;
  // Connections that were closed at once.
  uint64_t refused_sessions() const;

 private:
  struct Slot {
    VhostUserSessionInfo info;
    // Null once its counters are among those of the sessions that ended.
    std::unique_ptr<VhostUserSession> session;
    std::thread thread;
    // Nothing of it is left, and the thread does no more.
    bool ended = false;
  };

  // A session of its own for it.
  absl::Status Begin(UniqueFd connection, VhostUserSessionInfo info)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The thread that takes connections and joins the threads of sessions.
  void Run();
  // The thread of one session.
  void RunSession(Slot& slot);
  void JoinEnded();

  const MakeDevice make_device_;
  const VhostUserServerOptions options_;
  const WakeFd wake_;
  // Set by Listen.
  std::string path_;
  ino_t path_inode_ = 0;

  mutable Mutex mutex_;
  UniqueFd listener_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t refused_sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of the sessions that ended.
  VhostUserCounters ended_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_
