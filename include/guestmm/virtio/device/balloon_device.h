#ifndef GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_
#define GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/device/virtio_device_base.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

class BalloonedPages;
class DiscardPace;

struct BalloonDeviceOptions {
  // The features to offer, a subset of kBalloonFeatures. If MUST_TELL_HOST is
  // offered, the device refuses drivers that do not accept it (§5.5.3.2).
  uint64_t features = kBalloonFPageReporting;
  // The maximum size of the reporting queue, and of each other queue: powers of
  // 2, at most kMaxVirtqueueSize. QEMU's are 32 and 128.
  uint16_t reporting_queue_size = 32;
  uint16_t queue_size = 128;
  QueueNumbering queue_numbering = QueueNumbering::kCompactByOffered;
  // The queue features to offer.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
  // As for SetMaxDiscardRate.
  uint64_t max_discard_rate = 0;
  // The longest poll of a queue for its next chain. 0: the device does not
  // poll, as in virtual time, in which nothing happens meanwhile.
  Nanoseconds max_poll = Nanoseconds(0);
};

// For a device with a thread of its own: about as long as a kick and the
// wake-ups after it take.
inline constexpr Nanoseconds kBalloonMaxPoll = std::chrono::microseconds(50);

// Counts of what a balloon device has done and refused so far.
struct BalloonDeviceCounters {
  uint64_t reports = 0;       // chains taken from the reporting queue
  uint64_t acknowledged = 0;  // of these, acknowledged
  // Descriptors of reports passed to the hypervisor, and their bytes.
  uint64_t ranges = 0;
  uint64_t bytes = 0;
  // Descriptors of reports and hints that were not discarded, because the guest
  // expects a poison other than zero there, and their bytes.
  uint64_t poisoned_ranges = 0;
  uint64_t poisoned_bytes = 0;
  // Batches for which the hypervisor returned an error.
  uint64_t discard_errors = 0;

  // Pages moved into and out of the balloon.
  uint64_t inflated_pages = 0;
  uint64_t deflated_pages = 0;
  uint64_t stats_updates = 0;
  // Hinting runs started by the driver; descriptors of hints passed to the
  // hypervisor, and their bytes.
  uint64_t hint_runs = 0;
  uint64_t hints = 0;
  uint64_t hinted_bytes = 0;

  // Broken queues, each of which caused NEEDS_RESET.
  uint64_t broken_queues = 0;

  // Descriptors skipped, by the first reason that applies. Includes descriptors
  // in indirect tables.
  uint64_t skipped_indirect = 0;       // INDIRECT, not negotiated
  uint64_t skipped_readable = 0;       // must be device-writable
  uint64_t skipped_writable = 0;       // must be device-readable
  uint64_t skipped_empty = 0;          // length 0
  uint64_t skipped_unaligned = 0;      // not whole granules, or entries
  uint64_t skipped_too_long = 0;       // more entries than any driver sends
  uint64_t skipped_outside_ram = 0;    // starts in no region
  uint64_t skipped_across_region = 0;  // crosses the end of its region
  uint64_t skipped_hints = 0;          // not of the current hinting run
  // Indirect tables skipped entirely, by TableFault.
  std::array<uint64_t, kTableFaults> skipped_tables = {};

  // Entries skipped: pages outside guest RAM; pages already in the balloon
  // (inflate) or not in it (deflate); hinting commands for a run that has ended
  // or was never requested.
  uint64_t bad_pfns = 0;
  uint64_t repeated_pfns = 0;
  uint64_t bad_commands = 0;

  // The sum of all skipped descriptors and tables.
  uint64_t skipped() const {
    return skipped_indirect + skipped_readable + skipped_writable +
           skipped_empty + skipped_unaligned + skipped_too_long +
           skipped_outside_ram + skipped_across_region + skipped_hints +
           std::accumulate(skipped_tables.begin(), skipped_tables.end(),
                           uint64_t{0});
  }
};

// The device side of a memory balloon (virtio 1.3 §5.5): takes inflated pages,
// reports of free pages, hints and statistics from the guest, and has the
// hypervisor discard the memory.
//
// The guest is not trusted. A bad descriptor is skipped and counted; the others
// of its chain are discarded, and the chain is acknowledged whatever the
// hypervisor returns.
class BalloonDevice final : public VirtioDeviceBase {
 public:
  // Handles queues on `workqueue`. All three references must outlive this.
  // REQUIRES: features and queue sizes within the limits of
  // BalloonDeviceOptions (CHECKed).
  BalloonDevice(const GuestRam& ram, Hypervisor& hypervisor,
                Workqueue& workqueue, const BalloonDeviceOptions& options = {});
  // Resets the device. REQUIRES: no kicks from here on, and not called from
  // inside a discard of this device.
  ~BalloonDevice() override;

  uint32_t device_id() const override { return kBalloonDeviceId; }

  // The host's interface: thread-safe. The guest responds later, or never.
  //
  // Sets the target size of the balloon, in pages of kBalloonPageSize.
  void SetTarget(uint32_t pages);
  uint32_t target() const {
    return GetConfig<uint32_t>(offsetof(BalloonConfig, num_pages));
  }
  // The size of the balloon according to the guest.
  uint32_t actual() const {
    return GetConfig<uint32_t>(offsetof(BalloonConfig, actual));
  }

  // Requests statistics; counters().stats_updates counts the replies.
  // FailedPrecondition if the driver did not accept STATS_VQ.
  absl::Status RequestStatistics();
  // The latest statistics; empty before the first reply.
  BalloonStatistics statistics() const;

  // Requests one run of free page hints, that is a pass over all of the guest's
  // free memory, and discards what is hinted. FailedPrecondition if the driver
  // did not accept FREE_PAGE_HINT, or if a run has not ended.
  absl::Status StartHinting();
  // Ends the run early. No effect if there is none.
  void StopHinting();
  // True if a run was requested and has not ended.
  bool hinting() const;

  // True: pauses discards. No chain is taken from the queues whose chains may
  // discard (inflate, free page, reporting); the guest waits for these as for a
  // slow host. False: goes on with the first that was not taken.
  void HoldDiscards(bool hold);
  bool holds_discards() const;
  // Sets the largest rate of discards, in bytes per second; 0: no limit. After
  // a chain, those queues rest for as long as its bytes take at that rate, at
  // most a day. The guest cannot shorten the rest by a reset.
  void SetMaxDiscardRate(uint64_t bytes_per_second);
  uint64_t max_discard_rate() const;

  // The features that the driver accepted; 0 before that.
  uint64_t accepted_features() const { return driver_features(); }
  BalloonDeviceCounters counters() const;

 private:
  // The state of a hinting run.
  enum class HintRun {
    kNone,
    kWanted,    // requested; the driver has not started
    kUnderWay,  // the driver has started: hints count
    kUnwanted,  // stopped by the host, not yet by the driver
  };

  // The queue at `index` for a driver that accepted `features`.
  std::optional<BalloonQueue> QueueAt(uint16_t index, uint64_t features) const;

  bool Suffices(uint64_t features) const override;
  uint16_t QueueSize(uint16_t index, uint64_t features) const override;
  bool MayUse(uint16_t index, uint64_t features) const override;
  std::span<const ConfigField> WritableConfig() const override;
  void ConfigWritten(const ConfigField& field, bool accepted) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueStarted(uint16_t index, uint16_t start) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueStopped(uint16_t index) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WasReset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Verdict HandleChain(uint16_t index, const DescriptorChain& chain) override;
  void Acknowledging(uint16_t index) override;
  void FoundBroken(uint16_t index) override;
  void HandleRequests() override;
  Nanoseconds Postponed(uint16_t index) override;

  void HandleReport(const DescriptorChain& chain);
  // Moves the chain's pages into or out of the balloon.
  void HandlePages(const DescriptorChain& chain);
  // Keeps the chain, which came from queue `index`, until the next one or a
  // request for statistics.
  void HandleStatistics(uint16_t index, const DescriptorChain& chain);
  void HandleHints(const DescriptorChain& chain);
  void HandleHintCommand(uint32_t command);
  bool WantsHints() const;
  // Shows the driver a command, in its configuration.
  void ShowHintCommand(uint32_t command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ChangeConfig(offsetof(BalloonConfig, free_page_hint_cmd_id), command);
  }
  // Passes the hints in batch_ to the hypervisor, and clears it.
  void DiscardHints();

  // The range that `descriptor` refers to; nullopt, and counted, if it is bad.
  std::optional<GpaRange> CheckRange(const VirtqDesc& descriptor);
  // A copy of the buffer, which holds entries of `entry_bytes` each; empty, and
  // counted, if it is bad.
  std::span<const std::byte> ReadEntries(const VirtqDesc& descriptor,
                                         size_t entry_bytes);
  // Translates and pins `range`; nullopt, and counted, if it is not within one
  // region.
  std::optional<Translation> Find(const GpaRange& range);
  // Passes batch_ to the hypervisor.
  void DiscardBatch();
  // True, and batch_ is counted, if the guest expects its poison in the pages
  // it gives, so that they must not be discarded: with PAGE_POISON negotiated,
  // unless it has written that the poison is zero. If it fills the pages itself
  // before it uses them (§5.5.6.6.1), any poison that it has written will do.
  bool KeepsPoison(bool fills_before_use = false);
  void Publish();

  Hypervisor& hypervisor_;
  const BalloonDeviceOptions options_;

  // Used by the handlers only: the queue of the current chain, its ranges, a
  // copy of its buffer; the pages in the balloon, the statistics buffer that
  // the device keeps, and the counters.
  BalloonQueue queue_ = BalloonQueue::kInflate;
  std::vector<GpaRange> batch_;
  std::array<std::byte, kMaxBalloonPfns * sizeof(uint32_t)> buffer_;
  const std::unique_ptr<BalloonedPages> ballooned_;
  std::optional<uint16_t> stats_head_;
  BalloonDeviceCounters tally_;

  const std::unique_ptr<DiscardPace> pace_;

  // Change under the same lock as free_page_hint_cmd_id.
  HintRun hint_run_ ABSL_GUARDED_BY(mutex_) = HintRun::kNone;
  uint32_t hint_command_ ABSL_GUARDED_BY(mutex_) = kFirstHintRun - 1;
  // The pages in the balloon are those of a driver that has gone.
  bool forgets_ballooned_ ABSL_GUARDED_BY(mutex_) = false;
  // The driver has written poison_val, and no later write was refused.
  bool poison_known_ ABSL_GUARDED_BY(mutex_) = false;

  // A leaf lock.
  mutable Mutex results_;
  BalloonDeviceCounters counters_ ABSL_GUARDED_BY(results_);
  BalloonStatistics statistics_ ABSL_GUARDED_BY(results_);
  bool wants_statistics_ ABSL_GUARDED_BY(results_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_
