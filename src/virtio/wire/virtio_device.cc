#include "guestmm/virtio/wire/virtio_device.h"

#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status CheckConfigRange(uint32_t offset, size_t bytes, size_t size) {
  if (offset <= size && bytes <= size - offset) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrFormat(
      "configuration at %d, %d bytes: must be within its %d bytes", offset,
      bytes, size));
}

}  // namespace guestmm
