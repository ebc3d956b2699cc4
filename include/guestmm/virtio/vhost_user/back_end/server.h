#ifndef GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_
#define GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_

// The device side of vhost-user. Guests in other processes connect and share
// their memory and queues. Each is served by a device of its own.
//
//   VhostUserServer server(
//       [](uint64_t session, const GuestRam& ram, Workqueue& workqueue) {
//         return std::make_shared<MyDevice>(ram, workqueue);
//       });
//   server.Listen("/run/my_device.sock");

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
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

// Counts of what one session, or all of them, have done so far.
struct VhostUserCounters {
  uint64_t messages = 0;  // received in full
  uint64_t refused = 0;   // of these, answered with an error

  VhostUserCounters& operator+=(const VhostUserCounters& other);
};

// One guest's connection.
struct VhostUserSessionInfo {
  uint64_t id = 0;  // from 1
  pid_t pid = 0;    // the process that connected; 0 if unknown
  VhostUserCounters counters;
};

struct VhostUserServerOptions {
  // The maximum number of sessions. Further connections are closed at once.
  size_t max_sessions = 32;
  // Per guest: the maximum number of regions, and their maximum total size.
  size_t max_regions = 256;
  uint64_t max_guest_bytes = kTiB;
  // Called when a session begins, and when it has ended and all its resources
  // are released. The reason is Unavailable if the guest closed the connection
  // or died, Cancelled if the server ended the session, else the guest's error.
  // Called on threads of the server; must not call it.
  std::function<void(const VhostUserSessionInfo&)> on_begin = {};
  std::function<void(const VhostUserSessionInfo&, const absl::Status&)> on_end =
      {};
};

class VhostUserSession;

// Serves any number of guests at a time. Each session has two threads: one for
// its socket and kicks, one for the device's work.
//
// Guests are not trusted. A request that is malformed, out of order or cannot
// be met gets an error as a reply. If no reply was requested, or if the start
// of the next message cannot be found, the session ends. No session affects
// another one. When a guest dies, its socket is closed: its device is reset and
// its memory unmapped.
class VhostUserServer {
 public:
  // Makes the device of one guest, in `session` (VhostUserSessionInfo::id).
  // Guest RAM is foreign (GuestRam::CreateForeign) and has no regions yet. The
  // session destroys its reference before on_end, and RAM and workqueue after
  // that: the device must not have another owner. If it needs an object of its
  // own, such as a hypervisor, that can be owned by the same reference (an
  // aliasing shared_ptr). Called with a lock held: must not call the server.
  using MakeDevice = std::function<std::shared_ptr<VirtioDevice>(
      uint64_t session, const GuestRam& ram, Workqueue& workqueue)>;

  explicit VhostUserServer(MakeDevice make_device,
                           VhostUserServerOptions options = {});
  // Stops.
  ~VhostUserServer();
  VhostUserServer(const VhostUserServer&) = delete;
  VhostUserServer& operator=(const VhostUserServer&) = delete;

  // Accepts connections at `path` from now on. Replaces a socket that a former
  // server left there. InvalidArgument if the path is too long, or there is a
  // file that is not a socket; AlreadyExists if another server listens there;
  // Unavailable, naming the system call, if the host refuses. REQUIRES: called
  // at most once.
  absl::Status Listen(const std::string& path);

  // Serves a guest that is already connected. ResourceExhausted if there are
  // max_sessions; Unavailable if the host has no threads or file descriptors
  // left.
  absl::Status Serve(UniqueFd connection);

  // Ends all sessions, refuses new ones, and removes the socket. No effect if
  // repeated.
  void Stop();

  // The sessions that have not ended.
  std::vector<VhostUserSessionInfo> sessions() const;
  // The sum over all sessions, including those that have ended.
  VhostUserCounters counters() const;
  // Connections that were closed at once.
  uint64_t refused_sessions() const;

 private:
  struct Slot {
    VhostUserSessionInfo info;
    // Null once its counters were added to ended_.
    std::unique_ptr<VhostUserSession> session;
    std::thread thread;
    // Counts for max_sessions. False once all its resources are released.
    bool live = true;
    // The thread is about to return.
    bool ended = false;
  };

  // Starts a session for `connection`.
  absl::Status Begin(UniqueFd connection, VhostUserSessionInfo info)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The thread that accepts connections, and joins the threads of ended
  // sessions.
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
  // The sum over the sessions that have ended.
  VhostUserCounters ended_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_BACK_END_SERVER_H_
