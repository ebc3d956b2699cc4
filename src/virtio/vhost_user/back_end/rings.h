#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/event_fd_notifier.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "src/virtio/vhost_user/back_end/regions.h"

namespace guestmm {

// A session's queues: collects what the front end sends about each queue, until
// SET_VRING_ENABLE sets it up at the device. From then until a reset its kick
// is polled.
//
// The handlers are named after their messages. Errors: NotFound if the device
// has no such queue; InvalidArgument, naming the value and its limit;
// FailedPrecondition, naming the message that must come first. Not thread-safe.
class VhostUserRings {
 public:
  // The maximum number of queues of a device: each takes file descriptors.
  static constexpr uint16_t kMaxQueues = 16;

  // Has all queues of `device`. Adds their kicks to `poller`, an epoll
  // instance, with the queue's index as data. All references must outlive the
  // last call.
  VhostUserRings(VirtioDevice& device, const GuestRam& ram,
                 const VhostUserRegions& regions, int poller);

  size_t size() const { return rings_.size(); }
  // Whether any queue is set up.
  bool IsSetUp() const;

  absl::Status SetVringNum(const VhostUserVringState& state);
  absl::Status SetVringAddr(const VhostUserVringAddr& addresses);
  absl::Status SetVringBase(const VhostUserVringState& state);
  // Resets the device.
  absl::StatusOr<uint16_t> GetVringBase(const VhostUserVringState& state);
  // Also errors of VirtioDevice::SetUpQueue. Disabling a queue resets the
  // device.
  absl::Status SetVringEnable(const VhostUserVringState& state);
  absl::Status SetVringKick(VhostUserMessage& message);
  absl::Status SetVringCall(VhostUserMessage& message);

  // Forwards a kick to the device. No effect if there is no such queue, or if
  // it is not set up.
  void Kick(uint64_t index);
  void KickAll();

  // Resets the device and forgets the queues.
  void Reset();

 private:
  // What is known about a queue so far.
  struct Ring {
    uint16_t size = 0;
    std::optional<VhostUserVringAddr> addresses;
    UniqueFd kick_fd;
    EventFdNotifier call;
    // The device's kick; null until the queue is set up.
    Notifier* kick = nullptr;
  };

  absl::StatusOr<Ring*> Find(uint64_t index);
  // The queue's index in `message`, and its eventfd, which is invalid if the
  // message says that there is none.
  static absl::StatusOr<std::pair<uint64_t, UniqueFd>> TakeFd(
      VhostUserMessage& message);

  VirtioDevice& device_;
  const GuestRam& ram_;
  const VhostUserRegions& regions_;
  const int poller_;
  std::vector<Ring> rings_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_
