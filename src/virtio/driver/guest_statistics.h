#ifndef GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/virtio/driver/driver_virtqueue.h"

namespace guestmm {

// The guest side of statistics (virtio 1.3 §5.5.6.3). One buffer is always with
// the device; by returning it the device requests an update. Used on the
// workqueue only.
class GuestStatistics {
 public:
  static constexpr uint64_t kBufferBytes = kBalloonStats * kBalloonStatBytes;

  // REQUIRES: the queue has a buffer of kBufferBytes.
  GuestStatistics(const DriverContext& context,
                  std::unique_ptr<DriverVirtqueue> queue)
      : context_(context), queue_(std::move(queue)) {}

  // Fills the buffer with the allocator's current counts, and offers it.
  void Offer();
  void Kick() { queue_->Kick(); }
  // Offers the buffer again if the device returned it. DataLoss if the ring is
  // broken.
  absl::Status HandleUsed();

 private:
  const DriverContext context_;
  const std::unique_ptr<DriverVirtqueue> queue_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_GUEST_STATISTICS_H_
