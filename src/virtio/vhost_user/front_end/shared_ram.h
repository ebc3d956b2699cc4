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

// Tracks which parts of guest RAM the VMM has mapped, and notifies it of
// regions added and removed.
//
// A region's user address is its guest-physical address. Ring addresses
// (SET_VRING_ADDR) are given in the same terms, and the VMM uses user addresses
// for nothing else. So they need not be where the region is mapped, which
// changes if it is removed and added again.
class VhostUserSharedRam final : public RegionObserver {
 public:
  // Observes `ram`, which must consist of memfds. Both must outlive this.
  VhostUserSharedRam(GuestRam& ram, VhostUserConnection& connection);
  ~VhostUserSharedRam() override;

  // From now on no VMM is notified: the old one is gone, and a new one is not
  // ready yet.
  void Forget() ABSL_LOCKS_EXCLUDED(sharing_);
  // Shares all regions with a VMM that is ready and has none mapped yet, and
  // from now on those added and removed later. If the VMM refuses, returns its
  // error, naming the region; Unavailable if the connection is lost.
  absl::Status ShareAll() ABSL_LOCKS_EXCLUDED(sharing_);

  // RegionObserver. If a region cannot be shared, reports about it are skipped
  // by the VMM, which is harmless: reports are hints.
  void OnRegionAdded(GpaRange range) override ABSL_LOCKS_EXCLUDED(sharing_);
  // If only a part of a shared region is removed, it stays shared: the VMM then
  // maps a hole.
  void OnRegionRemoved(GpaRange range) override ABSL_LOCKS_EXCLUDED(sharing_);

 private:
  // Shares the parts of `range` that are not shared yet.
  absl::Status Share(GpaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(sharing_);

  GuestRam& ram_;
  VhostUserConnection& connection_;

  // Held across requests about memory, so that there is one at a time.
  Mutex sharing_;
  bool is_ready_ ABSL_GUARDED_BY(sharing_) = false;
  std::vector<GpaRange> shared_ ABSL_GUARDED_BY(sharing_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_SHARED_RAM_H_
