#ifndef GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_
#define GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_

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
// acknowledged its deflation, with and without MUST_TELL_HOST.
//
// With DEFLATE_ON_OOM, an allocation that finds no memory deflates the balloon
// and waits for the host.
class BalloonInflation final : public Reclaimer {
 public:
  // The delay before the next attempt after an allocation for the balloon
  // failed.
  static constexpr Nanoseconds kRetry{200'000'000};
  // The size of each queue's buffer.
  static constexpr uint64_t kBufferBytes = kMaxBalloonPfns * sizeof(uint32_t);

  // `features` are those negotiated. REQUIRES: each queue has a buffer of
  // kBufferBytes.
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

  // Reclaimer. With DEFLATE_ON_OOM deflates kMaxBalloonPfns pages, however many
  // are wanted, unless a deflation is in flight (Linux,
  // virtio_balloon_oom_notify). Returns 0: the pages are freed once the host
  // has acknowledged.
  PageCount Reclaim(int cpu, PageCount wanted) override
      ABSL_LOCKS_EXCLUDED(lock_);
  // A deflation, or what the host's target will deflate; with DEFLATE_ON_OOM
  // also an inflation, since Reclaim may take its pages once it has ended.
  InFlight in_flight() const override ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Pages = std::vector<Pfn>;

  // Allocates up to `most` pages and offers them to the host. False if there
  // are none. REQUIRES: no inflation is in flight.
  bool Inflate(uint64_t most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Removes up to `most` pages and offers them to the host. REQUIRES: no
  // deflation is in flight; the balloon is not empty.
  void Deflate(uint64_t most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Writes the page numbers to the queue's buffer and offers it.
  static void Send(DriverVirtqueue& queue, const Pages& pages);
  // Frees all of `pages`.
  void Free(Pages& pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Writes the size of the balloon to the configuration (§5.5.6.1).
  void UpdateActual() ABSL_LOCKS_EXCLUDED(lock_);

  const DriverContext context_;
  const bool deflates_on_oom_;

  // Acquired inside the allocator's reclaim lock, and before its other locks.
  // Held while pages are freed, so that no request finds them neither in flight
  // nor free.
  mutable Mutex lock_;
  const std::unique_ptr<DriverVirtqueue> inflate_ ABSL_PT_GUARDED_BY(lock_);
  const std::unique_ptr<DriverVirtqueue> deflate_ ABSL_PT_GUARDED_BY(lock_);
  // Pages in the balloon whose inflation was acknowledged.
  Pages pages_ ABSL_GUARDED_BY(lock_);
  Counter page_count_;
  // Pages of the inflation and of the deflation in flight; empty if there is
  // none.
  Pages inflating_ ABSL_GUARDED_BY(lock_);
  Pages deflating_ ABSL_GUARDED_BY(lock_);
  // How often chains came back: see Reclaimer::InFlight.
  uint64_t returns_ ABSL_GUARDED_BY(lock_) = 0;
  // The host's target, and whether an allocation has taken pages since it was
  // set.
  uint32_t target_ ABSL_GUARDED_BY(lock_) = 0;
  bool was_reclaimed_ ABSL_GUARDED_BY(lock_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_
