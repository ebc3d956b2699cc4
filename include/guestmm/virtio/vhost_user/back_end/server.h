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

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/base/unix_listener.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace GUESTMM_EXPORT guestmm {

// Counts of what one session, or all of them, have done so far.
struct VhostUserCounters {
  uint64_t messages = 0;  // received in full
  uint64_t refused = 0;   // messages and kicks that led to an error
  // The refused by name (VhostUserRefusal::request).
  std::map<std::string, uint64_t> refused_by = {};

  VhostUserCounters& operator+=(const VhostUserCounters& other);
};

// One guest's connection.
struct VhostUserSessionInfo {
  uint64_t id = 0;  // from 1
  UnixPeer peer;
  VhostUserCounters counters;
};

// A message that was refused, or a ring in error.
struct VhostUserRefusal {
  // "SET_VRING_NUM"; "kick" and "memory" for a ring that could not be set up at
  // its kick or in changed memory, "ring" for one that was found broken.
  std::string request;
  absl::Status why;  // begins with the name of the request
};

struct VhostUserServerOptions {
  // The maximum number of sessions, in total and of one user. Further
  // connections are closed at once.
  size_t max_sessions = 32;
  size_t max_sessions_per_uid = 32;
  // Per guest: the maximum number of regions, and their maximum total size.
  size_t max_regions = 256;
  uint64_t max_guest_bytes = kTiB;
  // The maximum size of the regions of all guests, and of all guests of one
  // user: this process maps them, and has 128 TiB of addresses. The first
  // `guaranteed_guest_bytes` of each guest do not count, so that others cannot
  // take them.
  uint64_t guaranteed_guest_bytes = 0;
  uint64_t max_total_bytes = 64 * kTiB;
  uint64_t max_total_bytes_per_uid = 64 * kTiB;
  // The time that a connection has for its first message; a session that sends
  // none ends with DeadlineExceeded. Zero: any time.
  Nanoseconds handshake_timeout = std::chrono::seconds(10);
  // Accepts memory that the guest can shorten
  // (ForeignRamOptions::allow_unsealed).
  bool allow_unsealed_memory = false;
  // The file that Listen makes.
  UnixListenerOptions socket = {};
  // The users whose connections are accepted; empty for all.
  std::vector<uid_t> allowed_uids = {};
  // Called when a session begins, and when it has ended and all its resources
  // are released. The reason is Unavailable if the guest closed the connection
  // or died, Cancelled if the server ended the session, else the guest's error.
  // Called on threads of the server; must not call it.
  std::function<void(const VhostUserSessionInfo&)> on_begin = {};
  std::function<void(const VhostUserSessionInfo&, const absl::Status&)> on_end =
      {};
  // Called for each refusal, by the session with this id, and for each
  // connection that was closed at once. As often as guests wish, on threads of
  // the server; must return soon, and not call it.
  std::function<void(uint64_t session, const VhostUserRefusal&)> on_refused =
      {};
  std::function<void(const UnixPeer&, const absl::Status&)>
      on_refused_connection = {};
};

class MemoryBudget;
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

  // Accepts connections at `path` from now on. Errors of UnixListener::Listen.
  // REQUIRES: it listens nowhere yet.
  absl::Status Listen(const std::string& path);
  // The same, at a socket that exists.
  void Listen(UnixListener listener);

  // Serves a guest that is already connected. ResourceExhausted if there are
  // max_sessions or max_sessions_per_uid; PermissionDenied to users that are
  // not allowed; Unavailable if the host has no threads or file descriptors
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

  // Refuses a connection of `peer`: OK if it may be served.
  absl::Status Admit(const UnixPeer& peer) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
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
  const std::unique_ptr<MemoryBudget> budget_;
  const WakeFd wake_;

  mutable Mutex mutex_;
  UnixListener listener_ ABSL_GUARDED_BY(mutex_);
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
