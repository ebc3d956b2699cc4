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

// The memory that a front end shared with this session, as regions of foreign
// guest RAM: within bounds, and found again by the front end's addresses. One
// thread at a time.
class VhostUserRegions {
 public:
  // At most `max_regions`, and of all `max_bytes`. `ram` is foreign, and must
  // outlive this.
  VhostUserRegions(GuestRam& ram, size_t max_regions, uint64_t max_bytes)
      : ram_(ram), max_regions_(max_regions), max_bytes_(max_bytes) {}

  // Maps what `fd` has, of a request that errors name. ResourceExhausted if it
  // is one too many, or too large; InvalidArgument if its user addresses wrap
  // around; else errors of GuestRam::AdoptRegion.
  absl::Status Add(VhostUserRequest request, const VhostUserRegion& region,
                   int fd);

  // NotFound if it was not added as it is said here; else errors of
  // GuestRam::RemoveRegion.
  absl::Status Remove(const VhostUserRegion& region);
  // Stops at the first error.
  absl::Status RemoveAll();

  // Where guest RAM has an address of the front end, which SET_VRING_ADDR gave.
  // InvalidArgument if it is in no region.
  absl::StatusOr<Gpa> Translate(uint64_t userspace_addr) const;

 private:
  GuestRam& ram_;
  const size_t max_regions_;
  const uint64_t max_bytes_;
  // As they were given, by the order of arrival.
  std::vector<VhostUserRegion> regions_;
  uint64_t bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_
