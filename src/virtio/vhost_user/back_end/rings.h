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

// A session's queues: what the front end said of each, piece by piece, until
// SET_VRING_ENABLE sets it up at the device. From then until a reset its kick
// is watched.
//
// The handlers have the names of their messages. NotFound if the device has no
// such queue; InvalidArgument names what a message must not say, and its limit;
// FailedPrecondition, what must have come before. One thread at a time.
class VhostUserRings {
 public:
  // What a device may have, at most: each takes file descriptors.
  static constexpr uint16_t kMaxQueues = 16;

  // Of all queues that `device` has. Kicks are watched by `poller`, an epoll
  // instance, which says their queue's index. All must outlive this; the
  // device, the last call.
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
  // Besides: errors of VirtioDevice::SetUpQueue. To disable a queue resets the
  // device.
  absl::Status SetVringEnable(const VhostUserVringState& state);
  absl::Status SetVringKick(VhostUserMessage& message);
  absl::Status SetVringCall(VhostUserMessage& message);

  // Passes a kick on to the device, if there is such a queue and it is set up.
  void Kick(uint64_t index);
  void KickAll();

  // Of the device; the queues are forgotten.
  void Reset();

 private:
  // A queue as the front end told of it so far.
  struct Ring {
    uint16_t size = 0;
    std::optional<VhostUserVringAddr> addresses;
    UniqueFd kick_fd;
    EventFdNotifier call;
    // The device's, once the queue is set up.
    Notifier* kick = nullptr;
  };

  absl::StatusOr<Ring*> Find(uint64_t index);
  // The queue's index in `message`, and its eventfd, none if it says so.
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
