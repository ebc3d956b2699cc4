#include "src/virtio/driver/driver_virtqueue.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {

absl::StatusOr<std::unique_ptr<DriverVirtqueue>> DriverVirtqueue::Create(
    const DriverContext& context, const DriverVirtqueueOptions& options,
    Notifier& used) {
  const uint16_t size =
      std::min(options.size, context.device.MaxQueueSize(options.index));
  if (size == 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the device has no queue %d", options.index));
  }
  if (size < options.least) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "queue %d of %d descriptors: the driver needs %d, the device has %d",
        options.index, size, options.least,
        context.device.MaxQueueSize(options.index)));
  }
  // The tables and the buffer follow the rings.
  const uint16_t tables = std::min(options.tables, size);
  const bool has_tables = options.features.indirect && tables > 0 && size > 1;
  const uint64_t ring_bytes =
      has_tables ? VirtqueueBytes(size, tables, size) : VirtqueueBytes(size);
  constexpr uint64_t kCacheLine = 64;
  const uint64_t buffer_at = (ring_bytes + kCacheLine - 1) & ~(kCacheLine - 1);

  std::unique_ptr<DriverVirtqueue> queue(
      new DriverVirtqueue(context.allocator, context.cpu));
  int order = 0;
  while (Order(order).bytes() < buffer_at + options.buffer_bytes) ++order;
  queue->order_ = Order(order);
  if (queue->order_ <= context.allocator.max_order()) {
    queue->pfn_ =
        context.allocator.Allocate(context.cpu, queue->order_, kGfpKernel);
  }
  if (!queue->pfn_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no block of order %d for queue %d of %d descriptors",
                        order, options.index, size));
  }
  const Gpa start = ToGpa(*queue->pfn_);
  const VirtqueueLayout layout = LayOutVirtqueue(start, size);
  DriverQueueOptions ring_options = {.features = options.features};
  if (has_tables) {
    ring_options.tables = LayOutTables(layout, tables, size);
  }
  absl::StatusOr<DriverQueue> ring =
      DriverQueue::Create(context.ram, layout, ring_options);
  if (!ring.ok()) return ring.status();
  queue->ring_ = *std::move(ring);
  if (options.buffer_bytes > 0) {
    queue->buffer_gpa_ = start + buffer_at;
    queue->buffer_ =
        context.ram.Translate({queue->buffer_gpa_, options.buffer_bytes});
    if (!queue->buffer_) {
      return absl::InternalError(absl::StrFormat(
          "the buffer of queue %d: must be within one region", options.index));
    }
  }
  const absl::StatusOr<Notifier*> kick =
      context.device.SetUpQueue(options.index, layout, used);
  if (!kick.ok()) return kick.status();
  queue->kick_ = *kick;
  return queue;
}

void DriverVirtqueue::OfferToRead(const GpaRange& buffer, uint64_t token) {
  const absl::Status added = ring_->Add(std::span(&buffer, 1), {}, token);
  GUESTMM_CHECK(added.ok()) << added.ToString();
}

void DriverVirtqueue::OfferToWrite(const GpaRange& buffer, uint64_t token) {
  const absl::Status added = ring_->Add({}, std::span(&buffer, 1), token);
  GUESTMM_CHECK(added.ok()) << added.ToString();
}

DriverVirtqueue::~DriverVirtqueue() {
  // Unpin it before its pages are freed.
  buffer_.reset();
  ring_.reset();
  if (pfn_) allocator_.Free(cpu_, *pfn_, order_);
}

}  // namespace guestmm
