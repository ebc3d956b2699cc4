#ifndef GUESTMM_SRC_VIRTIO_DEVICE_GUEST_BYTES_H_
#define GUESTMM_SRC_VIRTIO_DEVICE_GUEST_BYTES_H_

#include <atomic>
#include <cstddef>
#include <cstring>
#include <span>

namespace guestmm {

// Copies memory that the guest may be writing to, reading each byte once.
inline void CopyFromGuest(std::span<std::byte> from, std::byte* to) {
  for (std::byte& byte : from) {
    *to++ = std::atomic_ref<std::byte>(byte).load(std::memory_order_relaxed);
  }
}

// The number at `bytes`, which need not be aligned.
template <typename Word>
Word LoadLittleEndian(const std::byte* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DEVICE_GUEST_BYTES_H_
