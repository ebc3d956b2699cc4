#ifndef GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/virtio/driver/driver_virtqueue.h"

namespace guestmm {

// Statistics of the guest's half (virtio 1.3 §5.5.6.3): one buffer is with the
// device, always; when it gives it back it wants new ones. Only on the
// workqueue.
class GuestStatistics {
 public:
  static constexpr uint64_t kBufferBytes = kBalloonStats * kBalloonStatBytes;

  // REQUIRES: the queue has such a buffer.
  GuestStatistics(const DriverContext& transport,
                  std::unique_ptr<DriverVirtqueue> queue)
      : transport_(transport), queue_(std::move(queue)) {}

  // Offers the buffer, with what the allocator counts now.
  void Offer();
  void Kick() { queue_->Kick(); }
  // Offers it again if the device gave it back. DataLoss if the ring is broken.
  absl::Status HandleUsed();

 private:
  const DriverContext transport_;
  const std::unique_ptr<DriverVirtqueue> queue_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_
