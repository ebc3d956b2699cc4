#ifndef GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_
#define GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/reporting_device.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

class BalloonHinting;
class BalloonInflation;
class DriverVirtqueue;
struct DriverContext;
struct DriverVirtqueueOptions;
class GuestStatistics;

struct BalloonDriverOptions {
  // The features to accept if they are offered, a subset of kBalloonFeatures.
  uint64_t features = kBalloonFeatures;
  // The maximum size of the reporting queue, and of each other queue: powers of
  // 2. A queue is smaller if the device's maximum is. Linux requests 32, v12
  // 16.
  uint16_t reporting_queue_size = 32;
  uint16_t queue_size = 128;
  // The most reports outstanding at a time, 1 or more: with indirect tables, of
  // which each report takes one; without, a report may fill the queue, so there
  // is one.
  uint16_t max_reports = 1;
  QueueNumbering queue_numbering = QueueNumbering::kCompactByOffered;
  // The queue features to accept if they are offered.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
  // The guest's treatment of the contents of free memory.
  PagePoisonMode page_poison = PagePoisonMode::kOff;
  // The vCPU on which pages for the queues and the balloon are allocated.
  int cpu = 0;
};

// The guest side of a memory balloon (virtio 1.3 §5.5). Sends reports of free
// pages to the device, as one chain per report, and by default one report at a
// time (virtballoon_report_pages). At the host's request, inflates and deflates
// the balloon, and sends statistics and hints.
//
//   auto driver = BalloonDriver::Create(device, ram, allocator, workqueue);
//   (*driver)->Report(ranges, client);   // then client.ReportDone(status)
//   (*driver)->Remove();
//
// If the device sets NEEDS_RESET, or returns a chain it was not given, the
// driver resets it. When a reset is complete, whatever its cause, outstanding
// reports end with Unavailable and all pages return to the guest. Until then
// they stay isolated, since the host may still discard them.
//
// As in Linux (virtballoon_validate), the contents of free memory decide on two
// features. A guest that neither poisons nor zeroes free memory declines
// PAGE_POISON. A guest that does either declines PAGE_REPORTING without
// PAGE_POISON, since the host would destroy the poison (§5.5.3.1).
class BalloonDriver final : public ReportingDevice {
 public:
  // Sets the device up (virtio 1.3 §3.1.1, §5.5.5), with its queues in pages of
  // `allocator`. Completions run on `workqueue`. All four references must
  // outlive this. FailedPrecondition if `device` is not a balloon, lacks
  // VERSION_1, or lacks a queue that its features imply; InvalidArgument if a
  // queue size is not a power of 2; ResourceExhausted if there are no pages for
  // the queues. After an error the device's status is FAILED.
  static absl::StatusOr<std::unique_ptr<BalloonDriver>> Create(
      VirtioDevice& device, const GuestRam& ram, PageAllocator& allocator,
      Workqueue& workqueue, const BalloonDriverOptions& options = {});

  // As Remove, then waits until the reset is complete. REQUIRES: that takes
  // less than ten minutes (CHECKed). So do not call it from inside a discard of
  // the device on the same thread, or while the device's process is stopped.
  ~BalloonDriver() override;

  // The features negotiated at the last set-up. REQUIRES: no set-up is in
  // progress on another thread.
  uint64_t features() const { return features_; }

  // 0 without PAGE_REPORTING. Keeps its value while the driver is down.
  size_t max_report_entries() const override;
  size_t max_reports() const override;
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override;

  // Resets the device, as for a guest that is suspended (Linux,
  // virtballoon_freeze). True if the reset is complete. False if it will
  // complete later, as when called from inside a discard of the device on the
  // same thread: poll is_down(). Reports are refused until Restore. No effect
  // if repeated. REQUIRES: not called from inside ReportDone.
  bool Freeze();
  // Sets the device up again, after Freeze or after the device broke.
  // FailedPrecondition if the driver is not down or was removed, or if the
  // device now takes fewer entries per report than before; else errors as
  // Create. After an error the driver stays down.
  absl::Status Restore();
  // As Freeze, but final.
  bool Remove();
  // True if a reset was requested and is complete.
  bool is_down() const;

  // Kicks sent for reports so far.
  uint64_t kicks() const;
  // The pages occupied by queues, in the balloon, and held as hints.
  PageCount queue_pages() const;
  PageCount balloon_pages() const;
  PageCount hinted_pages() const;

  // Checks the reporting queue, and that the outstanding reports are in it.
  absl::Status CheckInvariants() const;

 private:
  enum class State {
    kStarting,
    kReady,
    kBroken,     // must be reset
    kResetting,  // a reset was requested
    kDown,       // the reset is complete
  };
  // Why reports are refused.
  enum class Reason { kBroken, kFrozen, kRemoved };

  BalloonDriver(VirtioDevice& device, const GuestRam& ram,
                PageAllocator& allocator, Workqueue& workqueue,
                const BalloonDriverOptions& options);

  // Takes the device from reset to DRIVER_OK. After an error, a reset undoes
  // what was done.
  absl::Status Start();
  absl::Status Negotiate();
  absl::Status SetUpQueues();
  DriverContext context() const;
  // Sets up one of the balloon's queues. `config` need not have its index and
  // its features.
  absl::StatusOr<std::unique_ptr<DriverVirtqueue>> SetUpQueue(
      BalloonQueue queue, const DriverVirtqueueOptions& wanted);
  // As Start, but sets FAILED on error.
  absl::Status StartOrFail();

  // Requests a reset. If it completes at once, runs ResetIsComplete and returns
  // true.
  bool Reset(Reason reason);
  // Ends the outstanding reports and frees pages and queues. Once per reset.
  void ResetIsComplete();

  // The works' functions.
  void HandleUsed();
  void HandleConfigChange();
  // Moves balloon and hinting one step towards what the configuration asks for.
  void Step();
  // Takes returned chains. True if a step is due; DataLoss if a ring is broken.
  absl::StatusOr<bool> TakeUsed();
  std::optional<BalloonConfig> ReadConfig() const;
  // Takes returned reports, and appends their clients. DataLoss if the ring is
  // broken.
  absl::Status TakeReports(std::vector<Client*>& ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  VirtioDevice& device_;
  const GuestRam& ram_;
  PageAllocator& allocator_;
  Workqueue& workqueue_;
  const BalloonDriverOptions options_;

  // Set by Start.
  uint64_t offered_ = 0;
  uint64_t features_ = 0;
  // Exist from Start until the reset is complete. Used by the works only,
  // except that others read their page counts, with the lock held.
  std::unique_ptr<BalloonInflation> inflation_;
  std::unique_ptr<GuestStatistics> statistics_;
  std::unique_ptr<BalloonHinting> hinting_;

  // Guards the reporting queue. A leaf lock.
  mutable SpinLock lock_;
  State state_ ABSL_GUARDED_BY(lock_) = State::kDown;
  Reason reason_ ABSL_GUARDED_BY(lock_) = Reason::kBroken;
  std::unique_ptr<DriverVirtqueue> reporting_ ABSL_GUARDED_BY(lock_);
  size_t most_entries_ ABSL_GUARDED_BY(lock_) = 0;
  PageCount queue_pages_ ABSL_GUARDED_BY(lock_);
  size_t most_reports_ ABSL_GUARDED_BY(lock_) = 1;
  // Of the outstanding reports.
  std::vector<Client*> clients_ ABSL_GUARDED_BY(lock_);
  uint64_t kicks_ ABSL_GUARDED_BY(lock_) = 0;

  Work used_work_;
  Work config_work_;
  Work retry_work_;
  WorkNotifier used_;
  WorkNotifier config_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_
