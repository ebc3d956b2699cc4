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

// The guest side of free page hinting (virtio 1.3 §5.5.6.5; Linux,
// report_free_page_func). When the host starts a run, takes all available
// blocks of the largest order, sends a hint for each, then sends STOP, and
// holds the blocks until the host says DONE. Each step is an event.
//
// An allocation that finds no memory gets blocks back before that, as soon as
// the host has used all hints of the run.
class BalloonHinting final : public Reclaimer {
 public:
  // The size of the queue's buffer, which holds the run's id and STOP.
  static constexpr uint64_t kBufferBytes = 2 * sizeof(uint32_t);
  // Enough for the run's id, a block, and STOP.
  static constexpr uint16_t kLeastDescriptors = 4;

  // REQUIRES: the queue has a buffer of kBufferBytes and at least
  // kLeastDescriptors descriptors.
  BalloonHinting(const DriverContext& context,
                 std::unique_ptr<DriverVirtqueue> queue);
  // Frees all blocks. REQUIRES: the device was reset.
  ~BalloonHinting() override;

  // Continues towards the state that `command` asks for, as far as there are
  // free descriptors.
  void Step(uint32_t command) ABSL_LOCKS_EXCLUDED(lock_);

  // Takes back chains that the device used. True if there were any: a step is
  // due then. DataLoss if the ring is broken.
  absl::StatusOr<bool> HandleUsed() ABSL_LOCKS_EXCLUDED(lock_);

  // The pages of blocks held for the host.
  PageCount pages() const { return PageCount(page_count_.Get()); }

  // Reclaimer. Gives blocks back only after the host has used all hints of a
  // run. Until a page is written to, the host may still discard it
  // (§5.5.6.5.1).
  PageCount Reclaim(int cpu, PageCount wanted) override
      ABSL_LOCKS_EXCLUDED(lock_);
  // All blocks, until the host has used all hints of the run.
  InFlight in_flight() const override ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // Offers the word at `offset` of the buffer, set to `command`.
  void SendCommand(uint64_t offset, uint32_t command)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Offers blocks until the ring is full, or none are left, in which case it
  // returns true.
  bool SendBlocks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // True while the host may still use a hint.
  bool is_out() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return is_running_ || queue_->ring().outstanding() != 0;
  }
  // Frees up to `most` blocks, and returns their number. kInitialize writes to
  // them first, so that the host may no longer discard them before DONE.
  enum class Contents : bool { kLeave, kInitialize };
  size_t Free(int cpu, size_t most, Contents contents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Initialize(Pfn block);

  const DriverContext context_;
  const Order order_;

  // Acquired inside the allocator's reclaim lock, and before its other locks.
  // Held while blocks are freed, so that no request finds them neither in
  // flight nor free.
  mutable Mutex lock_;
  const std::unique_ptr<DriverVirtqueue> queue_ ABSL_PT_GUARDED_BY(lock_);
  // Blocks that were hinted and not given back yet.
  std::vector<Pfn> blocks_ ABSL_GUARDED_BY(lock_);
  Counter page_count_;
  // The last run started, and whether its STOP is still to be sent.
  uint32_t run_ ABSL_GUARDED_BY(lock_) = kHintStop;
  bool is_running_ ABSL_GUARDED_BY(lock_) = false;
  // See Reclaimer::InFlight.
  uint64_t returns_ ABSL_GUARDED_BY(lock_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_HINTING_H_
