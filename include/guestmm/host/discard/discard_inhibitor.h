#ifndef GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_
#define GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"

namespace guestmm {

// Keeps a hypervisor from discarding while someone needs all of guest memory to
// stay where it is: a directly assigned device (VFIO) writes by DMA to host
// pages that were pinned when it was attached, and a page discarded under it
// would be another page to the guest. QEMU: ram_block_discard_disable.
//
//   inhibitor.Inhibit();   // nothing is being discarded any more
//   ... the device may start ...
//   inhibitor.Allow();     // it has stopped
//
// An inhibited discard succeeds and has no effect: a report is a hint.
class DiscardInhibitor final : public Hypervisor {
 public:
  // REQUIRES: `next` is not null.
  explicit DiscardInhibitor(std::unique_ptr<Hypervisor> next);

  // From its return on nothing is discarded, until as many calls of Allow.
  // Waits for the discards that are under way.
  // REQUIRES: not called from inside a discard of this (it would wait for
  // itself).
  void Inhibit();
  // Takes one Inhibit back. REQUIRES: there is one to take back (CHECKed).
  void Allow();

  // Whether discards are inhibited at this moment.
  bool inhibited() const;

  // Passes `ranges` on, or, if inhibited, counts them and returns OK.
  absl::Status Discard(std::span<const GpaRange> ranges) override;

  // Those of the next one, and what was inhibited here on top.
  DiscardCounters counters() const override;

 private:
  const std::unique_ptr<Hypervisor> next_;
  // A leaf: no discard runs under it.
  mutable Mutex mutex_;
  std::condition_variable_any idle_;
  uint64_t inhibitions_ ABSL_GUARDED_BY(mutex_) = 0;
  // Discards that were passed on and have not returned.
  uint64_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t inhibited_discards_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t inhibited_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_DISCARD_INHIBITOR_H_
