#include "src/virtio/vhost_user/front_end/shared_ram.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

std::string SharedText(GpaRange range) {
  return absl::StrFormat("region 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

// The parts of `range` that are in none of `others`, in ascending order.
std::vector<GpaRange> Without(GpaRange range,
                              const std::vector<GpaRange>& others) {
  std::vector<GpaRange> left = {range};
  for (const GpaRange& other : others) {
    std::vector<GpaRange> next;
    for (const GpaRange& piece : left) {
      const uint64_t start = piece.gpa.value();
      const uint64_t end = start + piece.bytes;
      const uint64_t cut_start = std::clamp(other.gpa.value(), start, end);
      const uint64_t cut_end =
          std::clamp(other.gpa.value() + other.bytes, cut_start, end);
      if (cut_start > start) next.push_back({piece.gpa, cut_start - start});
      if (end > cut_end) next.push_back({Gpa(cut_end), end - cut_end});
    }
    left = std::move(next);
  }
  return left;
}

// The region as described to the VMM.
VhostUserSingleRegion RegionOf(GpaRange range) {
  return {.padding = 0,
          .region = {.guest_phys_addr = range.gpa.value(),
                     .size = range.bytes,
                     .userspace_addr = range.gpa.value(),
                     .mmap_offset = range.gpa.value()}};
}

}  // namespace

VhostUserSharedRam::VhostUserSharedRam(GuestRam& ram,
                                       VhostUserConnection& connection)
    : ram_(ram), connection_(connection) {
  ram_.SetObserver(this);
}

VhostUserSharedRam::~VhostUserSharedRam() { ram_.SetObserver(nullptr); }

void VhostUserSharedRam::Forget() {
  LockHolder hold(sharing_);
  is_ready_ = false;
  shared_.clear();
}

absl::Status VhostUserSharedRam::ShareAll() {
  LockHolder hold(sharing_);
  is_ready_ = true;
  for (const GpaRange& region : ram_.regions()) {
    if (absl::Status status = Share(region); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void VhostUserSharedRam::OnRegionAdded(GpaRange range) {
  LockHolder hold(sharing_);
  if (!is_ready_) return;
  [[maybe_unused]] const absl::Status shared = Share(range);
}

void VhostUserSharedRam::OnRegionRemoved(GpaRange) {
  LockHolder hold(sharing_);
  if (!is_ready_) return;
  const std::vector<GpaRange> regions = ram_.regions();
  std::erase_if(shared_, [&](const GpaRange& shared) {
    const std::vector<GpaRange> unused = Without(shared, regions);
    return unused.size() == 1 && unused[0] == shared &&
           connection_
               .Tell(VhostUserRequest::kRemMemReg, BytesOf(RegionOf(shared)))
               .ok();
  });
}

absl::Status VhostUserSharedRam::Share(GpaRange range) {
  const int memfd = ram_.memfd();
  for (const GpaRange& piece : Without(range, shared_)) {
    if (absl::Status status =
            connection_.Tell(VhostUserRequest::kAddMemReg,
                             BytesOf(RegionOf(piece)), std::span(&memfd, 1));
        !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(SharedText(piece), ": ",
                                                      status.message()));
    }
    shared_.push_back(piece);
  }
  return absl::OkStatus();
}

}  // namespace guestmm
