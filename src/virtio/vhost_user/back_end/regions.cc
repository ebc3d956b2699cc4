#include "src/virtio/vhost_user/back_end/regions.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// True if both are the same region: REM_MEM_REG need not give the offset.
bool IsSame(const VhostUserRegion& a, const VhostUserRegion& b) {
  return a.guest_phys_addr == b.guest_phys_addr && a.size == b.size &&
         a.userspace_addr == b.userspace_addr;
}

absl::Status CheckUserAddress(const VhostUserRegion& region) {
  if (region.userspace_addr + region.size >= region.userspace_addr) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "user address 0x%x + %s runs past the end of the address space",
      region.userspace_addr, FormatBytes(region.size)));
}

GpaRange RangeOf(const VhostUserRegion& region) {
  return {Gpa(region.guest_phys_addr), region.size};
}

}  // namespace

absl::Status VhostUserRegions::ChangeTo(
    size_t regions, uint64_t bytes, absl::FunctionRef<absl::Status()> change) {
  if (regions > limits_.max_regions) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d regions: must be at most %d", regions, limits_.max_regions));
  }
  if (bytes > limits_.max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s of this guest: must be at most %s in total",
                        FormatBytes(bytes), FormatBytes(limits_.max_bytes)));
  }
  const uint64_t before = Counted(bytes_);
  const uint64_t after = Counted(bytes);
  const uint64_t more = after - std::min(before, after);
  absl::Status status = budget_.Take(limits_.uid, more);
  if (!status.ok()) return status;
  status = change();
  if (status.ok()) bytes_ = bytes;
  budget_.Return(limits_.uid, before + more - Counted(bytes_));
  return status;
}

absl::Status VhostUserRegions::Add(const VhostUserRegion& region, int fd) {
  if (absl::Status status = CheckUserAddress(region); !status.ok()) {
    return status;
  }
  const uint64_t sum = bytes_ + std::min(region.size, ~uint64_t{0} - bytes_);
  return ChangeTo(regions_.size() + 1, sum, [&] {
    absl::Status status =
        ram_.AdoptRegion(RangeOf(region), fd, region.mmap_offset);
    if (status.ok()) regions_.push_back(region);
    return status;
  });
}

absl::Status VhostUserRegions::Remove(const VhostUserRegion& region) {
  const auto found = std::find_if(
      regions_.begin(), regions_.end(),
      [&](const VhostUserRegion& other) { return IsSame(other, region); });
  if (found == regions_.end()) {
    return absl::NotFoundError(absl::StrFormat("no region at 0x%x of %s",
                                               region.guest_phys_addr,
                                               FormatBytes(region.size)));
  }
  return ChangeTo(regions_.size() - 1, bytes_ - found->size, [&] {
    absl::Status status = ram_.RemoveRegion(RangeOf(*found));
    if (status.ok()) regions_.erase(found);
    return status;
  });
}

absl::Status VhostUserRegions::Replace(std::span<const VhostUserRegion> table,
                                       std::span<const UniqueFd> fds) {
  uint64_t bytes = 0;
  std::vector<ForeignRegion> regions;
  for (size_t i = 0; i < table.size(); ++i) {
    if (absl::Status status = CheckUserAddress(table[i]); !status.ok()) {
      return status;
    }
    bytes += std::min(table[i].size, ~uint64_t{0} - bytes);
    regions.push_back({.range = RangeOf(table[i]),
                       .fd = fds[i].get(),
                       .offset = table[i].mmap_offset});
  }
  return ChangeTo(table.size(), bytes, [&] {
    absl::Status status = ram_.ReplaceRegions(regions);
    if (status.ok()) regions_.assign(table.begin(), table.end());
    return status;
  });
}

std::vector<VhostUserRegion> VhostUserRegions::TableWithout(
    const VhostUserRegion& region) const {
  std::vector<VhostUserRegion> table;
  std::copy_if(
      regions_.begin(), regions_.end(), std::back_inserter(table),
      [&](const VhostUserRegion& other) { return !IsSame(other, region); });
  return table;
}

absl::StatusOr<Gpa> VhostUserRegions::Translate(
    std::span<const VhostUserRegion> table, uint64_t userspace_addr,
    uint64_t bytes) {
  for (const VhostUserRegion& region : table) {
    const uint64_t offset = userspace_addr - region.userspace_addr;
    if (offset < region.size && bytes <= region.size - offset) {
      return Gpa(region.guest_phys_addr) + offset;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("user address 0x%x, %d bytes: must be within one region",
                      userspace_addr, bytes));
}

}  // namespace guestmm
