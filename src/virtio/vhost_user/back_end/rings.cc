#include "src/virtio/vhost_user/back_end/rings.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "src/base/unix_socket.h"

namespace guestmm {
namespace {

// True if a guest's file is safe for the device to read and write. A pipe, or a
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
                               const VhostUserRegions& regions, int poller,
                               OnError on_error)
    : device_(device),
      ram_(ram),
      regions_(regions),
      poller_(poller),
      on_error_(std::move(on_error)) {
  uint16_t queues = 0;
  for (uint16_t index = 0; index < kMaxQueues; ++index) {
    if (device_.MaxQueueSize(index) > 0) {
      queues = static_cast<uint16_t>(index + 1);
    }
  }
  rings_ = std::vector<Ring>(queues);
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
  if (!IsVirtqueueSize(state.num) || state.num > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "queue %d of %d descriptors: must be a power of 2 up to %d",
        state.index, state.num, most));
  }
  if ((*ring)->size == state.num) return absl::OkStatus();
  absl::Status status = CheckStopped(state.index, **ring);
  if (status.ok()) (*ring)->size = static_cast<uint16_t>(state.num);
  return status;
}

absl::Status VhostUserRings::CheckStopped(uint64_t index, const Ring& ring) {
  if (ring.kick == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "queue %d is set up: must be stopped or disabled", index));
}

absl::Status VhostUserRings::SetVringAddr(const VhostUserVringAddr& addresses) {
  const absl::StatusOr<Ring*> ring = Find(addresses.index);
  if (!ring.ok()) return ring.status();
  if (addresses.flags != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("flags 0x%x: must be 0", addresses.flags));
  }
  if ((*ring)->addresses == addresses) return absl::OkStatus();
  absl::Status status = CheckStopped(addresses.index, **ring);
  if (status.ok()) (*ring)->addresses = addresses;
  return status;
}

absl::Status VhostUserRings::SetVringBase(const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> ring = Find(state.index);
  if (!ring.ok()) return ring.status();
  if (state.num > UINT16_MAX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue %d from entry %d: must be at most %d",
                        state.index, state.num, UINT16_MAX));
  }
  absl::Status status = CheckStopped(state.index, **ring);
  if (status.ok()) (*ring)->base = static_cast<uint16_t>(state.num);
  return status;
}

absl::StatusOr<uint16_t> VhostUserRings::GetVringBase(
    const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> found = Find(state.index);
  if (!found.ok()) return found.status();
  Ring& ring = **found;
  TakeDown(static_cast<uint16_t>(state.index), ring);
  ring.started = false;
  // The ring starts again with its next kick, which may come by another
  // eventfd.
  StopPolling(ring);
  return ring.base;
}

absl::Status VhostUserRings::SetVringEnable(const VhostUserVringState& state) {
  const absl::StatusOr<Ring*> found = Find(state.index);
  if (!found.ok()) return found.status();
  Ring& ring = **found;
  if (state.num > 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "queue %d: %d: must be 0 or 1", state.index, state.num));
  }
  const bool was_enabled = std::exchange(ring.enabled, state.num == 1);
  if (!ring.enabled) {
    TakeDown(static_cast<uint16_t>(state.index), ring);
    return absl::OkStatus();
  }
  absl::Status status = SetUp(static_cast<uint16_t>(state.index), ring);
  if (!status.ok()) ring.enabled = was_enabled;
  return status;
}

absl::Status VhostUserRings::EnableAll() {
  for (size_t index = 0; index < rings_.size(); ++index) {
    absl::Status status =
        SetVringEnable({.index = static_cast<uint32_t>(index), .num = 1});
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<VirtqueueLayout> VhostUserRings::Locate(
    const Ring& ring, std::span<const VhostUserRegion> table) {
  VirtqueueLayout layout;
  layout.size = ring.size;
  const auto locate = [&](uint64_t address, uint64_t bytes, Gpa& part) {
    const absl::StatusOr<Gpa> gpa =
        VhostUserRegions::Translate(table, address, bytes);
    if (gpa.ok()) part = *gpa;
    return gpa.status();
  };
  absl::Status status = locate(ring.addresses->descriptors,
                               layout.descriptors_bytes(), layout.descriptors);
  status.Update(locate(ring.addresses->available, layout.available_bytes(),
                       layout.available));
  status.Update(locate(ring.addresses->used, layout.used_bytes(), layout.used));
  if (!status.ok()) return status;
  return layout;
}

absl::Status VhostUserRings::ChangeMemory(
    std::span<const VhostUserRegion> table,
    absl::FunctionRef<absl::Status()> change) {
  std::vector<uint16_t> set_up;
  for (size_t index = 0; index < rings_.size(); ++index) {
    if (rings_[index].kick == nullptr) continue;
    if (const auto layout = Locate(rings_[index], table); !layout.ok()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "queue ", index, " is set up: ", layout.status().message()));
    }
    set_up.push_back(static_cast<uint16_t>(index));
  }
  for (const uint16_t index : set_up) TakeDown(index, rings_[index]);
  absl::Status changed = change();
  for (const uint16_t index : set_up) {
    SetUpOrTell("memory", index, rings_[index]);
  }
  return changed;
}

absl::Status VhostUserRings::SetUp(uint16_t index, Ring& ring) {
  if (ring.kick != nullptr || !ring.enabled || ring.size == 0 ||
      !ring.addresses || !ring.kick_fd.valid()) {
    return absl::OkStatus();
  }
  const absl::StatusOr<VirtqueueLayout> layout = Locate(ring, regions_.table());
  if (!layout.ok()) return layout.status();
  const absl::StatusOr<uint16_t> start = ResumeAt(index, *layout, ring.base);
  if (!start.ok()) return start.status();
  // A front end that does not send SET_STATUS has negotiated nevertheless.
  device_.SetStatus(kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk);
  if (config_ != nullptr) device_.SetConfigNotifier(*config_);
  const absl::StatusOr<Notifier*> kick =
      device_.ResumeQueue(index, *layout, ring.call, *start);
  if (!kick.ok()) return kick.status();
  ring.kick = *kick;
  if (ring.started) {
    device_.SetStatus(kVirtioDriverOk);
    // The kicks that came while the ring was disabled.
    ring.kick->Notify();
  }
  return absl::OkStatus();
}

void VhostUserRings::TakeDown(uint16_t index, Ring& ring) {
  if (std::exchange(ring.kick, nullptr) == nullptr) return;
  const absl::StatusOr<uint16_t> base = device_.StopQueue(index);
  if (base.ok()) ring.base = *base;
}

absl::StatusOr<uint16_t> VhostUserRings::ResumeAt(uint16_t index,
                                                  const VirtqueueLayout& layout,
                                                  uint16_t base) const {
  const absl::StatusOr<VirtqueueMemory> memory =
      VirtqueueMemory::Map(ram_, layout);
  if (!memory.ok()) return memory.status();
  const uint16_t used = memory->used_idx().load();
  const uint16_t available = memory->available_idx().load();
  const auto pending = static_cast<uint16_t>(available - used);
  if (pending > layout.size || static_cast<uint16_t>(base - used) > pending) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "queue %d of %d descriptors from entry %d: must be "
        "between its used index, %d, and its available index, %d",
        index, layout.size, base, used, available));
  }
  // Chains that another back end took and did not return are handled again.
  return used;
}

absl::StatusOr<std::pair<uint64_t, UniqueFd>> VhostUserRings::TakeFd(
    VhostUserMessage& message) {
  const absl::StatusOr<uint64_t> value = message.As<uint64_t>();
  if (!value.ok()) return value.status();
  const bool has_fd = (*value & kVhostUserVringNoFd) == 0;
  if (message.fds.size() != (has_fd ? 1 : 0)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("0x%x came with %d fds: must be %d", *value,
                        message.fds.size(), has_fd ? 1 : 0));
  }
  if (has_fd && !IsEventFd(message.fds[0].get())) {
    return absl::InvalidArgumentError("must come with an eventfd");
  }
  return std::pair(*value & kVhostUserVringIndexMask,
                   has_fd ? std::move(message.fds[0]) : UniqueFd());
}

absl::Status VhostUserRings::SetVringKick(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = Find(taken->first);
  if (!ring.ok()) return ring.status();
  if (!taken->second.valid()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue %d: must have an eventfd", taken->first));
  }
  return Poll(**ring, taken->first, std::move(taken->second));
}

absl::Status VhostUserRings::Poll(Ring& ring, uint64_t index,
                                  UniqueFd kick_fd) {
  // Edge-triggered: the eventfd is never read, since the guest could make that
  // block. One that is readable already is reported once.
  epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = index}};
  if (epoll_ctl(poller_, EPOLL_CTL_ADD, kick_fd.get(), &event) != 0) {
    return SystemError("epoll_ctl");
  }
  StopPolling(ring);
  ring.kick_fd = std::move(kick_fd);
  return absl::OkStatus();
}

void VhostUserRings::StopPolling(Ring& ring) {
  if (!ring.kick_fd.valid()) return;
  // Closing the fd would not remove it, since the guest has it open, too.
  epoll_ctl(poller_, EPOLL_CTL_DEL, ring.kick_fd.get(), nullptr);
  ring.kick_fd = UniqueFd();
}

absl::Status VhostUserRings::SetVringCall(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = Find(taken->first);
  if (!ring.ok()) return ring.status();
  (*ring)->call.Set(std::move(taken->second));
  return absl::OkStatus();
}

absl::Status VhostUserRings::SetVringErr(VhostUserMessage& message) {
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> taken = TakeFd(message);
  if (!taken.ok()) return taken.status();
  const absl::StatusOr<Ring*> ring = Find(taken->first);
  if (!ring.ok()) return ring.status();
  (*ring)->error.Set(std::move(taken->second));
  return absl::OkStatus();
}

void VhostUserRings::Kick(uint64_t index) {
  if (index >= rings_.size()) return;
  Ring& ring = rings_[index];
  ring.started = true;
  if (ring.kick == nullptr) {
    SetUpOrTell("kick", static_cast<uint16_t>(index), ring);
    return;
  }
  device_.SetStatus(kVirtioDriverOk);
  ring.kick->Notify();
}

void VhostUserRings::SetUpOrTell(std::string_view reason, uint16_t index,
                                 Ring& ring) {
  const absl::Status status = SetUp(index, ring);
  if (status.ok()) return;
  ring.error.Notify();
  on_error_(reason, status);
}

void VhostUserRings::NotifyError(uint16_t index) {
  if (index < rings_.size()) rings_[index].error.Notify();
}

void VhostUserRings::Reset() {
  for (Ring& ring : rings_) {
    ring.kick = nullptr;
    ring.call.Close();
  }
  device_.SetStatus(0);
  for (Ring& ring : rings_) {
    StopPolling(ring);
    ring.size = 0;
    ring.addresses.reset();
    ring.base = 0;
    ring.enabled = false;
    ring.started = false;
  }
}

}  // namespace guestmm
