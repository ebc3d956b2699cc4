#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/event_fd_notifier.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "src/virtio/vhost_user/back_end/regions.h"

namespace guestmm {

// A session's queues ("rings"): what the front end sent about each, and whether
// it runs (vhost-user, "Ring states"):
//
//   enabled   SET_VRING_ENABLE 1; without protocol features, always
//   started   by a kick, until GET_VRING_BASE
//   set up    at the device: enabled, with size, addresses and kick
//
// A ring that is set up and started runs. The states of rings are independent
// of each other, and of SET_STATUS: the first ring that is set up implies
// FEATURES_OK, the first kick DRIVER_OK. Features and configuration outlive a
// stop; only a reset of the device ends them.
//
// The handlers are named after their messages, which their errors do not name:
// NotFound if the device
// has no such queue; InvalidArgument, naming the value and its limit;
// FailedPrecondition for what must not change while the ring is set up. An
// error leaves the ring as it was. Not thread-safe, but for NotifyError.
class VhostUserRings {
 public:
  // The maximum number of queues of a device: each takes file descriptors.
  static constexpr uint16_t kMaxQueues = 16;

  // Called with the name of the reason, "kick" or "memory", and the error of a
  // ring that could not be set up, so that it does not run.
  using OnError =
      std::function<void(std::string_view reason, const absl::Status&)>;

  // Has all queues of `device`. Adds their kicks to `poller`, an epoll
  // instance, with the queue's index as data. All references must outlive the
  // last call.
  VhostUserRings(VirtioDevice& device, const GuestRam& ram,
                 const VhostUserRegions& regions, int poller, OnError on_error);

  size_t size() const { return rings_.size(); }

  absl::Status SetVringNum(const VhostUserVringState& state);
  absl::Status SetVringAddr(const VhostUserVringAddr& addresses);
  // Sets where the ring resumes when it is set up next. Checked then: the entry
  // must lie between the ring's used and available indexes.
  absl::Status SetVringBase(const VhostUserVringState& state);
  // Stops the ring after the chain in hand. Returns where it resumes.
  absl::StatusOr<uint16_t> GetVringBase(const VhostUserVringState& state);
  // Also errors of VirtioDevice::ResumeQueue, if all that a ring needs is
  // there. A ring that is disabled keeps its place.
  absl::Status SetVringEnable(const VhostUserVringState& state);
  // Enables all rings, for a front end without protocol features.
  absl::Status EnableAll();
  // May replace the kick of a ring that runs.
  absl::Status SetVringKick(VhostUserMessage& message);
  absl::Status SetVringCall(VhostUserMessage& message);
  // Notified if the ring is found broken, or cannot be set up at its kick.
  absl::Status SetVringErr(VhostUserMessage& message);

  // The kick of queue `index` is readable: starts the ring, if it is not, and
  // forwards the kick to the device. No effect if there is no such queue; a
  // ring that is disabled keeps the kick.
  void Kick(uint64_t index);

  // Runs `change`, which changes guest RAM to `table`, while no ring uses it;
  // rings that are set up then go on at the addresses of the new table.
  // FailedPrecondition, with no effect, if one of them is not in it; else what
  // `change` returns. The rings keep their places in any case. A ring that
  // cannot go on, since the memory has other contents, is in error.
  absl::Status ChangeMemory(std::span<const VhostUserRegion> table,
                            absl::FunctionRef<absl::Status()> change);

  // Ring `index` was found broken: notifies it. Thread-safe.
  void NotifyError(uint16_t index);

  // Sets the device's notifier for its configuration and status, which must
  // outlive this.
  void SetConfigNotifier(Notifier& config) { config_ = &config; }

  // Resets the device and forgets the queues.
  void Reset();

 private:
  struct Ring {
    uint16_t size = 0;
    std::optional<VhostUserVringAddr> addresses;
    uint16_t base = 0;  // where it resumes when it is set up next
    UniqueFd kick_fd;   // polled
    EventFdNotifier call;
    EventFdNotifier error;
    bool enabled = false;
    bool started = false;
    // The device's kick; null unless the ring is set up.
    Notifier* kick = nullptr;
  };

  absl::StatusOr<Ring*> Find(uint64_t index);
  // The queue's index in `message`, and its eventfd, which is invalid if the
  // message says that there is none.
  static absl::StatusOr<std::pair<uint64_t, UniqueFd>> TakeFd(
      VhostUserMessage& message);
  // FailedPrecondition if the ring is set up.
  static absl::Status CheckStopped(uint64_t index, const Ring& ring);
  // Where the ring is, in memory as in `table`.
  static absl::StatusOr<VirtqueueLayout> Locate(
      const Ring& ring, std::span<const VhostUserRegion> table);
  // Sets the ring up at the device if it is enabled and has all it needs.
  absl::Status SetUp(uint16_t index, Ring& ring);
  // The same; on error notifies the ring, and calls on_error_.
  void SetUpOrTell(std::string_view reason, uint16_t index, Ring& ring);
  // The opposite. The ring keeps its place.
  void TakeDown(uint16_t index, Ring& ring);
  // The entry at which the ring at `layout` resumes: that of the first chain
  // that was not returned. InvalidArgument if `base` cannot be right.
  absl::StatusOr<uint16_t> ResumeAt(uint16_t index,
                                    const VirtqueueLayout& layout,
                                    uint16_t base) const;
  // Polls `kick_fd`, which is valid, in place of the ring's present kick.
  absl::Status Poll(Ring& ring, uint64_t index, UniqueFd kick_fd);
  void StopPolling(Ring& ring);

  VirtioDevice& device_;
  const GuestRam& ram_;
  const VhostUserRegions& regions_;
  const int poller_;
  const OnError on_error_;
  Notifier* config_ = nullptr;
  std::vector<Ring> rings_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_RINGS_H_
