#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"

namespace guestmm {

// The memory that a front end shared with a session, as regions of foreign
// guest RAM. Enforces the limits, and translates addresses of the front end.
// Not thread-safe.
class VhostUserRegions {
 public:
  // At most `max_regions` regions of `max_bytes` in total. `ram` must be
  // foreign and outlive this.
  VhostUserRegions(GuestRam& ram, size_t max_regions, uint64_t max_bytes)
      : ram_(ram), max_regions_(max_regions), max_bytes_(max_bytes) {}

  // Maps `region` of the file `fd`. Errors name `request`: ResourceExhausted if
  // there would be too many regions or bytes; InvalidArgument if the region's
  // user addresses wrap around; else errors of GuestRam::AdoptRegion.
  absl::Status Add(VhostUserRequest request, const VhostUserRegion& region,
                   int fd);

  // NotFound unless such a region was added; else errors of
  // GuestRam::RemoveRegion.
  absl::Status Remove(const VhostUserRegion& region);
  // Stops at the first error.
  absl::Status RemoveAll();

  // The guest-physical address of a user address of the front end, as in
  // SET_VRING_ADDR. InvalidArgument if it is in no region.
  absl::StatusOr<Gpa> Translate(uint64_t userspace_addr) const;

 private:
  GuestRam& ram_;
  const size_t max_regions_;
  const uint64_t max_bytes_;
  // As received, in order of arrival.
  std::vector<VhostUserRegion> regions_;
  uint64_t bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_
