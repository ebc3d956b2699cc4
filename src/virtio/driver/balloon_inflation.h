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

// The balloon itself, of the guest's half (virtio 1.3 §5.5.6; Linux,
// fill_balloon and leak_balloon): brings the pages in it to the number that
// the host wants, at most kMaxBalloonPfns at a time, each step an event. A page
// is the balloon's from when it is allocated, to be given up, until the host
// has acknowledged that it is wanted back.
//
// With DEFLATE_ON_OOM an allocation that found no memory gets pages out of it.
class BalloonInflation final : public Reclaimer {
 public:
  // How long to wait, when the guest has no page to give, before the next try.
  static constexpr Nanoseconds kRetry{200'000'000};
  // What the buffers of each queue take.
  static constexpr size_t kDeflations = 4;
  static constexpr uint64_t kBufferBytes = kMaxBalloonPfns * sizeof(uint32_t);

  // `features`: those agreed on. REQUIRES: `inflate` has a buffer of
  // kBufferBytes, `deflate` one of as much kDeflations times, and as many
  // descriptors.
  BalloonInflation(const DriverContext& transport, uint64_t features,
                   std::unique_ptr<DriverVirtqueue> inflate,
                   std::unique_ptr<DriverVirtqueue> deflate);
  // Gives all pages back to the allocator. REQUIRES: the device was reset.
  ~BalloonInflation() override;

  // Goes one step towards `target` pages, if none is under way. Returns when to
  // come again, if that is needed for want of memory. What an allocation got
  // out is put back only when the host wants another number.
  std::optional<Nanoseconds> Step(uint32_t target) ABSL_LOCKS_EXCLUDED(lock_);

  // Takes back what the device used. True if there was anything: then a step is
  // due. DataLoss if a ring is broken.
  absl::StatusOr<bool> HandleUsed();

  PageCount pages() const { return PageCount(page_count_.Get()); }

  // Reclaimer: without MUST_TELL_HOST up to kMaxBalloonPfns pages at once. With
  // it none, since the host must hear of it first: they are free when it has.
  PageCount Reclaim(int cpu, PageCount wanted) override
      ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Pages = std::vector<Pfn>;

  // Sends pages on their way in.
  bool Inflate(uint64_t most) ABSL_LOCKS_EXCLUDED(lock_);
  // Takes up to `most` pages out and tells the host, if a buffer is free.
  // Returns which of them the guest may have at once.
  enum class Use { kAfterAck, kAtOnce };
  Pages Deflate(uint64_t most, Use use) ABSL_LOCKS_EXCLUDED(lock_);
  // Writes their numbers to the queue's buffer `slot` and offers it.
  static void Send(DriverVirtqueue& queue, size_t slot, const Pages& pages);
  void Free(int cpu, const Pages& pages);
  // Tells the host how many there are (§5.5.6.1).
  void UpdateActual() ABSL_LOCKS_EXCLUDED(lock_);

  const DriverContext transport_;
  const bool must_tell_host_;
  const bool deflates_on_oom_;

  // Inside the allocator's reclaim lock; outside of nothing.
  mutable Mutex lock_;
  const std::unique_ptr<DriverVirtqueue> inflate_ ABSL_PT_GUARDED_BY(lock_);
  const std::unique_ptr<DriverVirtqueue> deflate_ ABSL_PT_GUARDED_BY(lock_);
  // In the balloon, as the host knows.
  Pages pages_ ABSL_GUARDED_BY(lock_);
  Counter page_count_;
  // On their way in; none if no inflation is out.
  Pages inflating_ ABSL_GUARDED_BY(lock_);
  // By buffer: out, and on their way back; of those that the guest has already,
  // none.
  struct Deflation {
    bool is_out = false;
    Pages pages;
  };
  std::array<Deflation, kDeflations> deflations_ ABSL_GUARDED_BY(lock_);
  // What the host wants, and that an allocation got pages out since.
  uint32_t target_ ABSL_GUARDED_BY(lock_) = 0;
  bool was_reclaimed_ ABSL_GUARDED_BY(lock_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DRIVER_BALLOON_INFLATION_H_
