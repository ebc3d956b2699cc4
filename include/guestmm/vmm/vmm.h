#ifndef GUESTMM_VMM_VMM_H_
#define GUESTMM_VMM_VMM_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"

namespace guestmm {

// Counts of what one guest, or all of them, did so far.
struct VmmCounters {
  VhostUserCounters requests;
  BalloonDiscards discards;
};

// One guest of a Vmm.
struct VmmGuest {
  uint64_t id = 0;  // from 1, in order of arrival
  pid_t pid = 0;    // 0 if unknown
  VmmCounters counters;
};

struct VmmOptions {
  // Called when a guest has connected, and when it has left and its memory is
  // unmapped. The status is as in VhostUserServerOptions::on_end. Called on
  // threads of the VMM; must not call it.
  std::function<void(const VmmGuest&)> on_begin = {};
  std::function<void(const VmmGuest&, const absl::Status&)> on_end = {};
};

// Makes this process the VMM of guests in other processes
// (GuestOptions::vmm_socket): serves balloon devices over vhost-user, with
// queues as long as those guests request.
//
// For a program, not a library: the constructor raises the process's limit of
// file descriptors to the hard limit, from which it derives the largest number
// of guests, and installs GuardAgainstForeignFaults.
class Vmm {
 public:
  explicit Vmm(VmmOptions options = {});
  // Stops.
  ~Vmm();
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  // As VhostUserServer::Listen.
  absl::Status Listen(const std::string& path);
  // Disconnects all guests and removes the socket. No effect if repeated.
  void Stop();

  // Guests connected now.
  size_t guests() const;
  // Of all guests, including those that have left.
  VmmCounters counters() const;

 private:
  VhostUserServerOptions ServerOptions();

  const VmmOptions options_;
  BalloonFactory balloons_;
  VhostUserServer server_;
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_VMM_H_
