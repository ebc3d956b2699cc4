#ifndef GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_
#define GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"

namespace GUESTMM_EXPORT guestmm {

// Inhibits discards while all of guest memory must stay in place. A directly
// assigned device (VFIO) writes by DMA to host pages that were pinned when it
// was attached. If one is discarded, the guest sees another page than the
// device. QEMU: ram_block_discard_disable.
//
//   inhibitor.Inhibit();   // no discard is in progress any more
//   ... the device may start ...
//   inhibitor.Allow();     // the device has stopped
//
// An inhibited discard succeeds and has no effect: a report is a hint.
class DiscardInhibitor final : public Hypervisor {
 public:
  // REQUIRES: `next` is not null.
  explicit DiscardInhibitor(std::unique_ptr<Hypervisor> next);

  // Waits for discards in progress. After this returns nothing is discarded
  // until Allow was called as often as Inhibit. REQUIRES: not called from
  // inside a discard of this, which would deadlock.
  void Inhibit();
  // Undoes one Inhibit. REQUIRES: called at most as often as Inhibit (CHECKed).
  void Allow();

  // True if discards are inhibited now.
  bool inhibited() const;

  // Forwards `ranges`. If inhibited, counts them and returns OK.
  absl::Status Discard(std::span<const GpaRange> ranges) override;

  // Those of the next hypervisor, plus what was inhibited here.
  DiscardCounters counters() const override;

 private:
  const std::unique_ptr<Hypervisor> next_;
  // A leaf lock: not held during a discard.
  mutable Mutex mutex_;
  std::condition_variable_any idle_;
  uint64_t inhibitions_ ABSL_GUARDED_BY(mutex_) = 0;
  // Discards that were forwarded and have not returned.
  uint64_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t inhibited_discards_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t inhibited_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_
