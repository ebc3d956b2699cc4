#ifndef GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_
#define GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/device/virtio_device_base.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

class BalloonedPages;

struct BalloonDeviceOptions {
  // What is offered, of kBalloonFeatures. MUST_TELL_HOST is insisted on if it
  // is: no driver is served that does not take it (§5.5.3.2).
  uint64_t features = kBalloonFPageReporting;
  // The most descriptors of the reporting queue, and of each other one: powers
  // of 2, at most kMaxVirtqueueSize. QEMU's are 32 and 128.
  uint16_t reporting_queue_size = 32;
  uint16_t queue_size = 128;
  QueueNumbering queue_numbering = QueueNumbering::kCompactByOffered;
  // Which of them are offered.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
};

// What a balloon device did and refused so far.
struct BalloonDeviceCounters {
  uint64_t reports = 0;       // chains taken off the reporting queue
  uint64_t acknowledged = 0;  // and given back
  // Descriptors of reports that were handed to the hypervisor, and their bytes.
  uint64_t ranges = 0;
  uint64_t bytes = 0;
  // The same of those, and of hints, that were left as they are, since the
  // guest expects a poison there that is not zero.
  uint64_t poisoned_ranges = 0;
  uint64_t poisoned_bytes = 0;
  // Batches for which the hypervisor returned an error.
  uint64_t discard_errors = 0;

  // Pages that went into the balloon and came out of it.
  uint64_t inflated_pages = 0;
  uint64_t deflated_pages = 0;
  uint64_t stats_updates = 0;
  // Runs of hinting that the driver began; descriptors of hints handed to the
  // hypervisor, and their bytes.
  uint64_t hint_runs = 0;
  uint64_t hints = 0;
  uint64_t hinted_bytes = 0;

  // Queues found broken: NEEDS_RESET was set.
  uint64_t broken_queues = 0;

  // Descriptors skipped, by the first reason that applied. A descriptor of an
  // indirect table is one like any other.
  uint64_t skipped_indirect = 0;       // INDIRECT, which was not negotiated
  uint64_t skipped_readable = 0;       // not for the device to write
  uint64_t skipped_writable = 0;       // not for the device to read
  uint64_t skipped_empty = 0;          // length 0
  uint64_t skipped_unaligned = 0;      // not in whole granules, or entries
  uint64_t skipped_too_long = 0;       // more entries than a driver has
  uint64_t skipped_outside_ram = 0;    // starts in no region
  uint64_t skipped_across_region = 0;  // runs out of its region
  uint64_t skipped_hints = 0;          // of no run that the device wants
  // Indirect tables skipped as a whole, by TableFault.
  std::array<uint64_t, kTableFaults> skipped_tables = {};

  // Entries skipped: pages that guest RAM does not have, or that are in the
  // balloon already (of a deflate: are not); commands of hinting of a run that
  // is over, or was never asked for.
  uint64_t bad_pfns = 0;
  uint64_t repeated_pfns = 0;
  uint64_t bad_commands = 0;

  // Descriptors in all.
  uint64_t skipped() const {
    return skipped_indirect + skipped_readable + skipped_writable +
           skipped_empty + skipped_unaligned + skipped_too_long +
           skipped_outside_ram + skipped_across_region + skipped_hints +
           std::accumulate(skipped_tables.begin(), skipped_tables.end(),
                           uint64_t{0});
  }
};

// The host's half of a memory balloon (virtio 1.3 §5.5): takes pages that the
// guest gives up, reports of free pages, hints and statistics, and lets the
// hypervisor discard.
//
// The guest is not trusted. A bad descriptor is skipped and counted, the others
// of its chain are discarded and the chain is acknowledged, whatever the
// hypervisor said.
class BalloonDevice final : public VirtioDeviceBase {
 public:
  // Works on `workqueue`. All three must outlive this.
  // REQUIRES: features and queue sizes that BalloonDeviceOptions allows
  // (CHECKed).
  BalloonDevice(const GuestRam& ram, Hypervisor& hypervisor,
                Workqueue& workqueue, const BalloonDeviceOptions& options = {});
  // Resets. REQUIRES: no one kicks, and no discard of this is running on the
  // calling thread.
  ~BalloonDevice() override;

  uint32_t device_id() const override { return kBalloonDeviceId; }

  // The host's side. All from any thread; what the guest makes of it comes
  // later, or never.
  //
  // Asks the guest to have so many pages of kBalloonPageSize in the balloon.
  void SetTarget(uint32_t pages);
  // What the guest says it has in there.
  uint32_t actual() const {
    return GetConfig<uint32_t>(offsetof(BalloonConfig, actual));
  }

  // Asks for statistics: counters().stats_updates tells when they came.
  // FailedPrecondition if the driver did not take STATS_VQ.
  absl::Status RequestStatistics();
  // The last that came; empty if none did.
  BalloonStatistics statistics() const;

  // Asks for hints of free pages, which are then discarded: once through all
  // the guest has. FailedPrecondition if the driver did not take
  // FREE_PAGE_HINT, or is in a run.
  absl::Status StartHinting();
  // Wants no more of them. No effect if there is no run.
  void StopHinting();
  // Whether the guest was asked and has not said yet that it is done.
  bool hinting() const;

  BalloonDeviceCounters counters() const;

 private:
  // Where a run of hinting is.
  enum class HintRun {
    kNone,
    kWanted,    // the driver has not begun
    kUnderWay,  // its hints count
    kUnwanted,  // they do not any more; it has not ended
  };

  // What queue `index` is for a driver that took `features`.
  std::optional<BalloonQueue> QueueAt(uint16_t index, uint64_t features) const;

  bool Suffices(uint64_t features) const override;
  uint16_t QueueSize(uint16_t index, uint64_t features) const override;
  bool MayUse(uint16_t index, uint64_t features) const override;
  absl::Status CheckConfigWrite(uint32_t offset, size_t bytes,
                                uint64_t features,
                                uint8_t status) const override;
  void WasReset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Verdict HandleChain(uint16_t index, const DescriptorChain& chain) override;
  void Acknowledging(uint16_t index) override;
  void FoundBroken(uint16_t index) override;
  void HandleRequests() override;

  void HandleReport(const DescriptorChain& chain);
  // Moves the pages that the chain names into the balloon, or out of it.
  void HandlePages(const DescriptorChain& chain);
  // Keeps the chain, which is queue `index`'s.
  void HandleStatistics(uint16_t index, const DescriptorChain& chain);
  void HandleHints(const DescriptorChain& chain);
  void HandleHintCommand(uint32_t command);
  bool WantsHints() const;
  // Shows the driver a command.
  void ShowHintCommand(uint32_t command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ChangeConfig(offsetof(BalloonConfig, free_page_hint_cmd_id), command);
  }
  // Hands the hints in batch_ to the hypervisor, and empties it.
  void DiscardHints();

  // What `descriptor` names; none, and counted, if it is bad.
  std::optional<GpaRange> CheckRange(const VirtqDesc& descriptor);
  // A copy of the entries that it holds, of `entry_bytes` each; empty, and
  // counted, if it is bad.
  std::span<const std::byte> ReadEntries(const VirtqDesc& descriptor,
                                         size_t entry_bytes);
  // Where it lies, for as long as that is looked at; none, and counted, if not
  // within one region.
  std::optional<Translation> Find(const GpaRange& range);
  // Hands batch_ to the hypervisor.
  void DiscardBatch();
  // Whether what the guest gives must stay as it is; then counts `batch_`.
  bool KeepsPoison();
  void Publish();

  Hypervisor& hypervisor_;
  const BalloonDeviceOptions options_;

  // The handlers' alone: which queue's chain is in hand, its ranges, a copy of
  // its buffer; the pages in the balloon, the buffer for statistics that the
  // device keeps, and what was counted.
  BalloonQueue queue_ = BalloonQueue::kInflate;
  std::vector<GpaRange> batch_;
  std::array<std::byte, kMaxBalloonPfns * sizeof(uint32_t)> buffer_;
  const std::unique_ptr<BalloonedPages> ballooned_;
  std::optional<uint16_t> stats_head_;
  BalloonDeviceCounters tally_;

  // Change together with free_page_hint_cmd_id.
  HintRun hint_run_ ABSL_GUARDED_BY(mutex_) = HintRun::kNone;
  uint32_t hint_command_ ABSL_GUARDED_BY(mutex_) = kFirstHintRun - 1;

  // A leaf.
  mutable Mutex results_;
  BalloonDeviceCounters counters_ ABSL_GUARDED_BY(results_);
  BalloonStatistics statistics_ ABSL_GUARDED_BY(results_);
  bool wants_statistics_ ABSL_GUARDED_BY(results_) = false;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_BALLOON_DEVICE_H_
