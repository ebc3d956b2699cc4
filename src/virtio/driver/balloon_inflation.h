#ifndef GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/virtio/driver/driver_virtqueue.h"

namespace guestmm {

// The guest side of inflation and deflation (virtio 1.3 §5.5.6; Linux,
// fill_balloon and leak_balloon). Moves the size of the balloon to the host's
// target, at most kMaxBalloonPfns pages at a time. Each step is an event. A
// page belongs to the balloon from its allocation until the host has
// acknowledged its deflation.
//
// With DEFLATE_ON_OOM, an allocation that finds no memory takes pages from the
// balloon.
class BalloonInflation final : public Reclaimer {
 public:
  // The delay before the next attempt after an allocation for the balloon
  // failed.
  static constexpr Nanoseconds kRetry{200'000'000};
  // The buffers of each queue: one for the inflate queue, kDeflations for the
  // deflate queue.
  static constexpr size_t kDeflations = 4;
  static constexpr uint64_t kBufferBytes = kMaxBalloonPfns * sizeof(uint32_t);

  // `features` are those negotiated. REQUIRES: the inflate queue has a buffer
  // of kBufferBytes; the deflate queue, one of kDeflations * kBufferBytes and
  // at least kDeflations descriptors.
  BalloonInflation(const DriverContext& context, uint64_t features,
                   std::unique_ptr<DriverVirtqueue> inflate,
                   std::unique_ptr<DriverVirtqueue> deflate);
  // Frees all pages. REQUIRES: the device was reset.
  ~BalloonInflation() override;

  // Takes one step towards `target` pages, unless one is in progress. Returns
  // the delay until the next attempt if the guest is short of memory; else
  // nullopt. Pages that an allocation took are not replaced until the host sets
  // another target.
  std::optional<Nanoseconds> Step(uint32_t target) ABSL_LOCKS_EXCLUDED(lock_);

  // Takes back chains that the device used. True if there were any: a step is
  // due then. DataLoss if a ring is broken.
  absl::StatusOr<bool> HandleUsed();

  PageCount pages() const { return PageCount(page_count_.Get()); }

  // Reclaimer. Without MUST_TELL_HOST frees up to kMaxBalloonPfns pages at
  // once. With it frees none at once, since the host must acknowledge first:
  // the pages are freed then.
  PageCount Reclaim(int cpu, PageCount wanted) override
      ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Pages = std::vector<Pfn>;

  // Allocates up to `most` pages and offers them to the host. False if there
  // are none.
  bool Inflate(uint64_t most) ABSL_LOCKS_EXCLUDED(lock_);
  // Removes up to `most` pages and notifies the host, if a buffer is free.
  // Returns the pages that the guest may use at once.
  enum class Use { kAfterAck, kAtOnce };
  Pages Deflate(uint64_t most, Use use) ABSL_LOCKS_EXCLUDED(lock_);
  // Writes the page numbers to buffer `slot` of the queue and offers it.
  static void Send(DriverVirtqueue& queue, size_t slot, const Pages& pages);
  void Free(int cpu, const Pages& pages);
  // Writes the size of the balloon to the configuration (§5.5.6.1).
  void UpdateActual() ABSL_LOCKS_EXCLUDED(lock_);

  const DriverContext context_;
  const bool must_tell_host_;
  const bool deflates_on_oom_;

  // Acquired inside the allocator's reclaim lock; no lock is acquired inside
  // it.
  mutable Mutex lock_;
  const std::unique_ptr<DriverVirtqueue> inflate_ ABSL_PT_GUARDED_BY(lock_);
  const std::unique_ptr<DriverVirtqueue> deflate_ ABSL_PT_GUARDED_BY(lock_);
  // Pages in the balloon whose inflation was acknowledged.
  Pages pages_ ABSL_GUARDED_BY(lock_);
  Counter page_count_;
  // Pages of the inflation in progress; empty if there is none.
  Pages inflating_ ABSL_GUARDED_BY(lock_);
  // By buffer: whether it is with the device, and the pages to free once it is
  // acknowledged. Excludes pages that the guest has got back already.
  struct Deflation {
    bool is_out = false;
    Pages pages;
  };
  std::array<Deflation, kDeflations> deflations_ ABSL_GUARDED_BY(lock_);
  // The host's target, and whether an allocation has taken pages since it was
  // set.
  uint32_t target_ ABSL_GUARDED_BY(lock_) = 0;
  bool was_reclaimed_ ABSL_GUARDED_BY(lock_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_
