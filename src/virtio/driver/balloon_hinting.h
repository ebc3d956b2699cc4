#ifndef GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_HINTING_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_HINTING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/virtio/driver/driver_virtqueue.h"

namespace guestmm {

// Free page hinting of the guest's half (virtio 1.3 §5.5.6.5; Linux,
// report_free_page_func): when the host names a run, takes every block of the
// largest order that can be had, tells the host of each, says STOP, and holds
// them until the host says DONE. Each step is an event.
//
// An allocation that found no memory gets blocks back before that.
class BalloonHinting final : public Reclaimer {
 public:
  // What the queue's buffer takes: the run's id, and STOP.
  static constexpr uint64_t kBufferBytes = 2 * sizeof(uint32_t);
  // The run's id, a block, and STOP.
  static constexpr uint16_t kLeastDescriptors = 4;

  // REQUIRES: the queue has such a buffer, and so many descriptors.
  BalloonHinting(const DriverContext& transport,
                 std::unique_ptr<DriverVirtqueue> queue);
  // Gives all blocks back to the allocator. REQUIRES: the device was reset.
  ~BalloonHinting() override;

  // Goes on with what the host wants, which `command` says, as far as the
  // queue has room.
  void Step(uint32_t command) ABSL_LOCKS_EXCLUDED(lock_);

  // Takes back what the device used. True if there was anything: then a step is
  // due. DataLoss if the ring is broken.
  absl::StatusOr<bool> HandleUsed() ABSL_LOCKS_EXCLUDED(lock_);

  // Pages of blocks that are held for the host.
  PageCount pages() const { return PageCount(page_count_.Get()); }

  // Reclaimer: once the host has used all hints of a run, which it may still
  // take until they are written to (§5.5.6.5.1).
  PageCount Reclaim(int cpu, PageCount wanted) override
      ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Blocks = std::vector<Pfn>;

  // Offers the word at `offset` of the buffer, which holds `command`.
  void SendCommand(uint64_t offset, uint32_t command)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Offers blocks until the ring is full or there is no more to be had: then
  // true.
  bool SendBlocks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Takes `most` of them out, or all there are.
  Blocks TakeBlocks(size_t most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Writes to blocks that go before the host is done with them.
  void Initialize(const Blocks& blocks);
  void Free(int cpu, const Blocks& blocks);

  const DriverContext transport_;
  const Order order_;

  // Inside the allocator's reclaim lock, and outside of its others.
  mutable Mutex lock_;
  const std::unique_ptr<DriverVirtqueue> queue_ ABSL_PT_GUARDED_BY(lock_);
  // Those that the host was told of, and not yet that they are the guest's.
  Blocks blocks_ ABSL_GUARDED_BY(lock_);
  Counter page_count_;
  // The run that was begun last, and whether its STOP is to come.
  uint32_t run_ ABSL_GUARDED_BY(lock_) = kHintStop;
  bool is_running_ ABSL_GUARDED_BY(lock_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_HINTING_H_
