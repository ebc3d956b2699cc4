#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_

#include <sys/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "src/virtio/vhost_user/back_end/memory_budget.h"

namespace guestmm {

// The memory that a front end shared with a session, as regions of foreign
// guest RAM. Enforces the limits, and translates addresses of the front end.
// Not thread-safe.
class VhostUserRegions {
 public:
  // Limits of one guest. Those from `guaranteed_bytes` on count in the budget
  // of all guests, for its user.
  struct Limits {
    size_t max_regions;
    uint64_t max_bytes;
    uint64_t guaranteed_bytes;
    uid_t uid;
  };

  // `ram` must be foreign. Both references must outlive this.
  VhostUserRegions(GuestRam& ram, const Limits& limits, MemoryBudget& budget)
      : ram_(ram), limits_(limits), budget_(budget) {}
  // Returns what counts in the budget; the regions stay mapped.
  ~VhostUserRegions() { budget_.Return(limits_.uid, Counted(bytes_)); }
  VhostUserRegions(const VhostUserRegions&) = delete;
  VhostUserRegions& operator=(const VhostUserRegions&) = delete;

  // Maps `region` of the file `fd`. ResourceExhausted if there would be too
  // many regions or bytes; InvalidArgument if the region's user addresses wrap
  // around; else errors of GuestRam::AdoptRegion.
  absl::Status Add(const VhostUserRegion& region, int fd);

  // NotFound unless such a region was added; else errors of
  // GuestRam::RemoveRegion.
  absl::Status Remove(const VhostUserRegion& region);

  // Replaces all regions by `table`, each of the file with its index in `fds`,
  // whole or not at all. Errors as Add, and of GuestRam::ReplaceRegions.
  absl::Status Replace(std::span<const VhostUserRegion> table,
                       std::span<const UniqueFd> fds);

  // As received, in order of arrival.
  const std::vector<VhostUserRegion>& table() const { return regions_; }
  // The table without `region`.
  std::vector<VhostUserRegion> TableWithout(
      const VhostUserRegion& region) const;

  // The guest-physical address of `bytes` bytes at a user address of the front
  // end, as in SET_VRING_ADDR. InvalidArgument if they are not within one
  // region of `table`.
  static absl::StatusOr<Gpa> Translate(std::span<const VhostUserRegion> table,
                                       uint64_t userspace_addr, uint64_t bytes);

 private:
  // What counts in the budget of all guests, of `bytes`.
  uint64_t Counted(uint64_t bytes) const {
    return bytes - std::min(bytes, limits_.guaranteed_bytes);
  }
  // Runs `change`, after which there are `regions` regions of `bytes` in total.
  // ResourceExhausted if these are too many; else the error of `change`.
  absl::Status ChangeTo(size_t regions, uint64_t bytes,
                        absl::FunctionRef<absl::Status()> change);

  GuestRam& ram_;
  const Limits limits_;
  MemoryBudget& budget_;
  std::vector<VhostUserRegion> regions_;
  // Their total size.
  uint64_t bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_REGIONS_H_
