#ifndef GUESTMM_SRC_VIRTIO_DRIVER_DRIVER_VIRTQUEUE_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_DRIVER_VIRTQUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

// The things that a driver needs to set its queues up and to work with them.
struct DriverContext {
  VirtioDevice& device;
  const GuestRam& ram;
  PageAllocator& allocator;
  // The queue of the driver's works, on which it takes used chains back.
  Workqueue& workqueue;
  // The vCPU on which pages for the queues are allocated.
  int cpu = 0;
};

struct DriverVirtqueueOptions {
  uint16_t index = 0;
  // The maximum size, a power of 2, and the smallest size that is acceptable if
  // the device's maximum is lower.
  uint16_t size = 0;
  uint16_t least = 1;
  VirtqueueFeatures features = {};
  // With features.indirect: the number of indirect tables, up to the queue's
  // size, each with as many entries as the queue has descriptors.
  uint16_t tables = 0;
  // The size of an extra buffer for data that goes into chains.
  uint64_t buffer_bytes = 0;
};

// A driver's queue: the ring, the pages that it occupies, and the device's
// kick. Not thread-safe.
class DriverVirtqueue {
 public:
  // Allocates the pages and sets the queue up at the device, which notifies
  // `used` of used chains. FailedPrecondition if the device has no such queue,
  // or only a smaller one; InvalidArgument if `size` is not a power of 2;
  // ResourceExhausted if there are no pages; else the device's error.
  static absl::StatusOr<std::unique_ptr<DriverVirtqueue>> Create(
      const DriverContext& context, const DriverVirtqueueOptions& options,
      Notifier& used);

  // Frees the pages. REQUIRES: the device was reset.
  ~DriverVirtqueue();
  DriverVirtqueue(const DriverVirtqueue&) = delete;
  DriverVirtqueue& operator=(const DriverVirtqueue&) = delete;

  DriverQueue& ring() { return *ring_; }
  const DriverQueue& ring() const { return *ring_; }
  // Offers a chain of one buffer, device-readable or device-writable. REQUIRES:
  // a descriptor is free (CHECKed).
  void OfferToRead(const GpaRange& buffer, uint64_t token = 0);
  void OfferToWrite(const GpaRange& buffer, uint64_t token = 0);
  // Notifies the device of added chains, if it wants a notification.
  void Kick() {
    if (ring_->NeedsKick()) kick_->Notify();
  }
  // Call it without a lock held. Lives as long as the device.
  Notifier& kick() const { return *kick_; }

  // All pages that the queue occupies, including tables and buffer.
  PageCount pages() const { return order_.pages(); }
  // The buffer, and `bytes` bytes of it at `offset`.
  std::span<std::byte> buffer() { return buffer_->bytes(); }
  GpaRange BufferRange(uint64_t offset, uint64_t bytes) const {
    return {buffer_gpa_ + offset, bytes};
  }

 private:
  DriverVirtqueue(PageAllocator& allocator, int cpu)
      : allocator_(allocator), cpu_(cpu) {}

  PageAllocator& allocator_;
  const int cpu_;
  std::optional<Pfn> pfn_;
  Order order_;
  std::optional<DriverQueue> ring_;
  Gpa buffer_gpa_;
  std::optional<Translation> buffer_;
  Notifier* kick_ = nullptr;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_DRIVER_VIRTQUEUE_H_
