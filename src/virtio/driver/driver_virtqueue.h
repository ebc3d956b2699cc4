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
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

// What a driver sets its queues up with.
struct DriverContext {
  VirtioDevice& device;
  const GuestRam& ram;
  PageAllocator& allocator;
  // The vCPU whose pages hold the queues.
  int cpu = 0;
};

struct DriverVirtqueueOptions {
  uint16_t index = 0;
  // The most descriptors, a power of 2, and the fewest that will do where the
  // device takes less.
  uint16_t size = 0;
  uint16_t least = 1;
  VirtqueueFeatures features = {};
  // With features.indirect: how many tables of as many entries as the queue.
  uint16_t tables = 0;
  // Memory of the driver's own to put into chains.
  uint64_t buffer_bytes = 0;
};

// A queue of a driver: the guest's half, the pages that it lies in, and the
// device's kick. Not locked.
class DriverVirtqueue {
 public:
  // Allocates the pages and sets the device's half up. `used` is notified of
  // used chains. FailedPrecondition if the device has no such queue, or one
  // that is too small; InvalidArgument if `size` is not a power of 2;
  // ResourceExhausted if there are no pages; else what the device says.
  static absl::StatusOr<std::unique_ptr<DriverVirtqueue>> Create(
      const DriverContext& transport, const DriverVirtqueueOptions& options,
      Notifier& used);

  // Frees the pages. REQUIRES: the device was reset.
  ~DriverVirtqueue();
  DriverVirtqueue(const DriverVirtqueue&) = delete;
  DriverVirtqueue& operator=(const DriverVirtqueue&) = delete;

  DriverQueue& ring() { return *ring_; }
  const DriverQueue& ring() const { return *ring_; }
  // Offers a chain of one buffer, for the device to read or to write. REQUIRES:
  // a descriptor is free (CHECKed).
  void OfferToRead(const GpaRange& buffer, uint64_t token = 0);
  void OfferToWrite(const GpaRange& buffer, uint64_t token = 0);
  // Tells the device of chains that were added, if it wants to be told.
  void Kick() {
    if (ring_->NeedsKick()) kick_->Notify();
  }
  // To be called without a lock; lives as long as the device.
  Notifier& kick() const { return *kick_; }

  // Those that it all lies in.
  PageCount pages() const { return order_.pages(); }
  // The buffer, and its part of so many bytes from `offset` on.
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
