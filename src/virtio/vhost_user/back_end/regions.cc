#include "src/virtio/vhost_user/back_end/regions.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status VhostUserRegions::Add(VhostUserRequest request,
                                   const VhostUserRegion& region, int fd) {
  const GpaRange range = {Gpa(region.guest_phys_addr), region.size};
  if (regions_.size() >= max_regions_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: must be at most %d regions", Name(request), max_regions_));
  }
  if (region.size > max_bytes_ - bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: %s in addition to %s: must be at most %s in total",
                        Name(request), FormatBytes(region.size),
                        FormatBytes(bytes_), FormatBytes(max_bytes_)));
  }
  if (region.userspace_addr + region.size < region.userspace_addr) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: user address 0x%x + %s runs past the end of the "
        "address space",
        Name(request), region.userspace_addr, FormatBytes(region.size)));
  }
  if (absl::Status status = ram_.AdoptRegion(range, fd, region.mmap_offset);
      !status.ok()) {
    return status;
  }
  bytes_ += region.size;
  regions_.push_back(region);
  return absl::OkStatus();
}

absl::Status VhostUserRegions::Remove(const VhostUserRegion& region) {
  const auto found = std::find_if(
      regions_.begin(), regions_.end(), [&](const VhostUserRegion& other) {
        return other.guest_phys_addr == region.guest_phys_addr &&
               other.size == region.size &&
               other.userspace_addr == region.userspace_addr;
      });
  if (found == regions_.end()) {
    return absl::NotFoundError(
        absl::StrFormat("REM_MEM_REG: no region at 0x%x of %s",
                        region.guest_phys_addr, FormatBytes(region.size)));
  }
  const GpaRange range = {Gpa(found->guest_phys_addr), found->size};
  if (absl::Status status = ram_.RemoveRegion(range); !status.ok()) {
    return status;
  }
  bytes_ -= range.bytes;
  regions_.erase(found);
  return absl::OkStatus();
}

absl::Status VhostUserRegions::RemoveAll() {
  while (!regions_.empty()) {
    if (absl::Status status = Remove(regions_.back()); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Gpa> VhostUserRegions::Translate(uint64_t userspace_addr) const {
  for (const VhostUserRegion& region : regions_) {
    if (const uint64_t offset = userspace_addr - region.userspace_addr;
        offset < region.size) {
      return Gpa(region.guest_phys_addr) + offset;
    }
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "SET_VRING_ADDR: user address 0x%x is in no region", userspace_addr));
}

}  // namespace guestmm
