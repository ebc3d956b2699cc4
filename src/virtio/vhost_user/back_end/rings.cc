#include "src/virtio/vhost_user/back_end/rings.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "src/virtio/vhost_user/unix_socket.h"

namespace guestmm {
namespace {

// Whether a guest's file is safe for the device to read and write. A pipe, or a
// file that the guest implements, could block the device.
bool IsEventFd(int fd) {
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  std::array<char, 64> target;
  const ssize_t length = readlink(link.c_str(), target.data(), target.size());
  return length > 0 &&
         std::string_view(target.data(), static_cast<size_t>(length)) ==
             "anon_inode:[eventfd]";
}

}  // namespace

VhostUserRings::VhostUserRings(VirtioDevice& device, const GuestRam& ram,
                               const VhostUserRegions& regions, int poller)
    : device_(device), ram_(ram), regions_(regions), poller_(poller) {
  uint16_t queues = 0;
  for (uint16_t index = 0; index < kMaxQueues; ++index) {
    if (device_.MaxQueueSize(index) > 0) {
      queues = static_cast<uint16_t>(index + 1);
    }
  }
  rings_ = std::vector<Ring>(queues);
}

bool VhostUserRings::IsSetUp() const {
  return std::any_of(rings_.begin(), rings_.end(),
                     [](const Ring& ring) { return ring.kick != nullptr; });
}

absl::StatusOr<VhostUserRings::Ring*> VhostUserRings::Find(uint64_t index) {
  if (index >= rings_.size()) {
    return absl::NotFoundError(absl::StrFormat(
        "queue %d: must be below %d, the device's number of queues", index,
        rings_.size()));
  }
  return &rings_[index];
}

absl::Status VhostUserRings::SetVringNum(const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> ring = Find(state.index);
  if (!ring.ok()) return ring.status();
  const uint16_t most =
      device_.MaxQueueSize(static_cast<uint16_t>(state.index));
  if (!std::has_single_bit(state.num) || state.num > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_VRING_NUM: queue %d of %d descriptors: must be a power of 2 up to "
        "%d",
        state.index, state.num, most));
  }
  (*ring)->size = static_cast<uint16_t>(state.num);
  return absl::OkStatus();
}

absl::Status VhostUserRings::SetVringAddr(const VhostUserVringAddr& addresses) {
  const absl::StatusOr<Ring*> ring = Find(addresses.index);
  if (!ring.ok()) return ring.status();
  if (addresses.flags != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SET_VRING_ADDR: flags 0x%x: must be 0", addresses.flags));
  }
  (*ring)->addresses = addresses;
  return absl::OkStatus();
}

absl::Status VhostUserRings::SetVringBase(const VhostUserVringState& state) {
  if (const absl::StatusOr<Ring*> ring = Find(state.index); !ring.ok()) {
    return ring.status();
  }
  if (state.num == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("SET_VRING_BASE: queue %d from entry %d: must be 0",
                      state.index, state.num));
}

absl::StatusOr<uint16_t> VhostUserRings::GetVringBase(
    const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> ring = Find(state.index);
  if (!ring.ok()) return ring.status();
  absl::StatusOr<Gpa> used = Gpa(0);
  if ((*ring)->addresses) used = regions_.Translate((*ring)->addresses->used);
  // The device can only stop as a whole. It has returned all chains that it
  // took, so the used index is also the index of the next one.
  Reset();
  if (!used.ok()) return uint16_t{0};
  const std::optional<Translation> header =
      ram_.Translate({*used, sizeof(VirtqRingHeader)});
  if (!header || !used->IsAligned(kVirtqUsedAlignment)) return uint16_t{0};
  return std::atomic_ref<uint16_t>(
             *reinterpret_cast<uint16_t*>(header->bytes().data() +
                                          offsetof(VirtqRingHeader, idx)))
      .load();
}

absl::Status VhostUserRings::SetVringEnable(const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> found = Find(state.index);
  if (!found.ok()) return found.status();
  Ring& ring = **found;
  if (state.num > 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SET_VRING_ENABLE: queue %d: %d: must be 0 or 1",
                        state.index, state.num));
  }
  if (state.num == (ring.kick != nullptr ? 1 : 0)) return absl::OkStatus();
  if (state.num == 0) {
    Reset();
    return absl::OkStatus();
  }
  if (ring.size == 0 || !ring.addresses || !ring.kick_fd.valid()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("SET_VRING_ENABLE: queue %d has no %s", state.index,
                        ring.size == 0    ? "size (SET_VRING_NUM)"
                        : !ring.addresses ? "addresses (SET_VRING_ADDR)"
                                          : "kick (SET_VRING_KICK)"));
  }
  VirtqueueLayout layout;
  layout.size = ring.size;
  for (const auto& [address, part] :
       {std::pair{ring.addresses->descriptors, &layout.descriptors},
        std::pair{ring.addresses->available, &layout.available},
        std::pair{ring.addresses->used, &layout.used}}) {
    const absl::StatusOr<Gpa> gpa = regions_.Translate(address);
    if (!gpa.ok()) return gpa.status();
    *part = *gpa;
  }
  const absl::StatusOr<Notifier*> kick =
      device_.SetUpQueue(static_cast<uint16_t>(state.index), layout, ring.call);
  if (!kick.ok()) return kick.status();
  // Edge-triggered: the eventfd is never read, since the guest could make that
  // block.
  epoll_event event = {.events = EPOLLIN | EPOLLET,
                       .data = {.u64 = state.index}};
  if (epoll_ctl(poller_, EPOLL_CTL_ADD, ring.kick_fd.get(), &event) != 0) {
    Reset();
    return SystemError("epoll_ctl");
  }
  ring.kick = *kick;
  return absl::OkStatus();
}

absl::StatusOr<std::pair<uint64_t, UniqueFd>> VhostUserRings::TakeFd(
    VhostUserMessage& message) {
  const absl::StatusOr<uint64_t> value = message.As<uint64_t>();
  if (!value.ok()) return value.status();
  const bool has_fd = (*value & kVhostUserVringNoFd) == 0;
  if (message.fds.size() != (has_fd ? 1 : 0)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: 0x%x came with %d fds: must be %d", Name(message.request()),
        *value, message.fds.size(), has_fd ? 1 : 0));
  }
  if (has_fd && !IsEventFd(message.fds[0].get())) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(message.request()), ": must come with an eventfd"));
  }
  return std::pair(*value & kVhostUserVringIndexMask,
                   has_fd ? std::move(message.fds[0]) : UniqueFd());
}

absl::Status VhostUserRings::SetVringKick(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = Find(taken->first);
  if (!ring.ok()) return ring.status();
  if ((*ring)->kick != nullptr || !taken->second.valid()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "SET_VRING_KICK: queue %d: %s", taken->first,
        (*ring)->kick != nullptr ? "is set up" : "must have an eventfd"));
  }
  (*ring)->kick_fd = std::move(taken->second);
  return absl::OkStatus();
}

absl::Status VhostUserRings::SetVringCall(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = Find(taken->first);
  if (!ring.ok()) return ring.status();
  (*ring)->call.Set(std::move(taken->second));
  return absl::OkStatus();
}

void VhostUserRings::Kick(uint64_t index) {
  if (index < rings_.size() && rings_[index].kick != nullptr) {
    rings_[index].kick->Notify();
  }
}

void VhostUserRings::KickAll() {
  for (const Ring& ring : rings_) {
    if (ring.kick != nullptr) ring.kick->Notify();
  }
}

void VhostUserRings::Reset() {
  for (Ring& ring : rings_) {
    if (ring.kick != nullptr) {
      // Closing the fd would not remove it, since the guest has it open, too.
      epoll_ctl(poller_, EPOLL_CTL_DEL, ring.kick_fd.get(), nullptr);
    }
    ring.kick = nullptr;
    ring.call.Close();
  }
  device_.SetStatus(0);
  for (Ring& ring : rings_) {
    ring.size = 0;
    ring.addresses.reset();
    ring.kick_fd = UniqueFd();
  }
}

}  // namespace guestmm
