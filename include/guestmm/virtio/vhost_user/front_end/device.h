#ifndef GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_
#define GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace GUESTMM_EXPORT guestmm {

struct VhostUserDeviceOptions {
  // The value of VirtioDevice::MaxQueueSize: vhost-user does not carry the
  // limit. A queue that is too large for the device is refused at set-up.
  uint16_t max_queue_size = 1024;
  // The time to wait for a reply, in real time. After that the connection is
  // given up.
  Nanoseconds timeout = std::chrono::seconds(5);
};

// The driver's view of a device that runs in another process, the VMM, reached
// by vhost-user over a Unix socket. The VMM maps guest RAM, which must consist
// of memfds, and is notified of regions added or removed later.
//
//   auto device =
//       VhostUserDevice::Connect("/run/balloon.sock", ram, kBalloonKind);
//   auto driver = BalloonDriver::Create(**device, ram, allocator, workqueue);
//
// No call blocks for longer than `timeout`, whatever the VMM does. If the VMM
// does not reply, violates the protocol or closes the socket, the connection is
// lost: status() has NEEDS_RESET and the config notifier is notified. From then
// on SetDriverFeatures, SetUpQueue and WriteConfig return Unavailable, and
// ReadConfig reads the last known configuration.
//
// A reset (SetStatus(0)) is complete when the VMM has acknowledged it, or when
// the VMM's *process* has exited. A closed socket is not enough: a stopped VMM
// can be continued, and would discard memory that is in use again. Until then
// status() is not 0, and a driver keeps reported pages isolated. The process
// that counts is the one that called listen(), so it must be the one that
// serves. status() waits for the reset until `timeout` after SetStatus(0), and
// returns at once after that.
class VhostUserDevice : public VirtioDevice {
 public:
  // Connects to a device of `kind` and shares all of `ram`, which must outlive
  // the result. InvalidArgument if the path is too long for a socket, or RAM is
  // neither kSharedMemfd nor kHugetlb; FailedPrecondition if the VMM lacks a
  // required protocol feature; Unavailable if no VMM listens there, it does not
  // reply in time, or its process cannot be watched; else the error that the
  // VMM replied with, naming the request.
  static absl::StatusOr<std::unique_ptr<VhostUserDevice>> Connect(
      const std::string& path, GuestRam& ram, const VirtioDeviceKind& kind,
      const VhostUserDeviceOptions& options = {});

  // Destruction closes the connection. REQUIRES: no driver uses the device, and
  // either it was reset or guest memory is no longer needed.

  // Connects again, to the VMM that listens at the path now, so that a driver
  // can set the device up again. FailedPrecondition unless status() is 0; else
  // errors as Connect. No effect if the connection is still up.
  virtual absl::Status Reconnect() = 0;

  // Closes the connection for good. From then on a reset completes at once,
  // whatever the VMM does. REQUIRES: guest memory is no longer needed.
  virtual void Abandon() = 0;

  // OK while connected; else Unavailable, with the reason.
  virtual absl::Status connection() const = 0;
  // The process at the other end.
  virtual pid_t vmm_pid() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_
