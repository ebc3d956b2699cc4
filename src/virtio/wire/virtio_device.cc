#include "guestmm/virtio/wire/virtio_device.h"

#include "absl/strings/str_format.h"

namespace guestmm {

absl::StatusOr<Notifier*> VirtioDevice::ResumeQueue(
    uint16_t index, const VirtqueueLayout& /*layout*/, Notifier& /*used*/,
    uint16_t /*start*/) {
  return absl::UnimplementedError(
      absl::StrFormat("queue %d: the device cannot resume a queue", index));
}

absl::StatusOr<uint16_t> VirtioDevice::StopQueue(uint16_t index) {
  return absl::UnimplementedError(
      absl::StrFormat("queue %d: the device cannot stop a queue", index));
}

absl::Status CheckConfigRange(uint32_t offset, size_t bytes, size_t size) {
  if (offset <= size && bytes <= size - offset) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrFormat(
      "configuration at %d, %d bytes: must be within its %d bytes", offset,
      bytes, size));
}

}  // namespace guestmm
