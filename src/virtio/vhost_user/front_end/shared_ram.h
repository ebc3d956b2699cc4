#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_SHARED_RAM_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_SHARED_RAM_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "src/virtio/vhost_user/front_end/connection.h"

namespace guestmm {

// What of guest RAM the VMM has mapped: tells it of regions that come and go.
//
// Regions have their guest-physical address for user address. Ring addresses
// (SET_VRING_ADDR) are given in these terms too, by which the VMM finds them
// again: nothing else uses them, so they need not say where the region is
// mapped, which changes when it comes again.
class VhostUserSharedRam final : public RegionObserver {
 public:
  // Observes `ram`, which must be of memfds. Both must outlive this.
  VhostUserSharedRam(GuestRam& ram, VhostUserConnection& connection);
  ~VhostUserSharedRam() override;

  // From here on nothing is told: the VMM is gone, and another one is not ready
  // yet.
  void Forget() ABSL_LOCKS_EXCLUDED(sharing_);
  // Shares all there is with a VMM that is ready, and has nothing mapped yet;
  // and what comes and goes from here on. The error that it answered with names
  // the region; Unavailable if the connection is lost.
  absl::Status ShareAll() ABSL_LOCKS_EXCLUDED(sharing_);

  // RegionObserver. What could not be shared is skipped in reports: they are
  // hints.
  void OnRegionAdded(GpaRange range) override ABSL_LOCKS_EXCLUDED(sharing_);
  // A part of what was shared as one stays shared: the VMM then has a mapping
  // of a hole.
  void OnRegionRemoved(GpaRange range) override ABSL_LOCKS_EXCLUDED(sharing_);

 private:
  // What of `range` is not shared yet.
  absl::Status Share(GpaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(sharing_);

  GuestRam& ram_;
  VhostUserConnection& connection_;

  // Held across requests about memory, one at a time.
  Mutex sharing_;
  bool is_ready_ ABSL_GUARDED_BY(sharing_) = false;
  std::vector<GpaRange> shared_ ABSL_GUARDED_BY(sharing_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_SHARED_RAM_H_
