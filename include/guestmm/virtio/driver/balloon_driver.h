#ifndef GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_
#define GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
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

namespace guestmm {

class BalloonHinting;
class BalloonInflation;
class DriverVirtqueue;
struct DriverContext;
struct DriverVirtqueueOptions;
class GuestStatistics;

struct BalloonDriverOptions {
  // What is accepted if it is offered, of kBalloonFeatures.
  uint64_t features = kBalloonFeatures;
  // The most descriptors of the reporting queue, and of each other one: powers
  // of 2; fewer if the device takes fewer. Linux asks for 32, v12 for 16.
  uint16_t reporting_queue_size = 32;
  uint16_t queue_size = 128;
  QueueNumbering queue_numbering = QueueNumbering::kCompactByOffered;
  // Which of them are accepted if the device offers them.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
  // What the guest does to the contents of free memory.
  PagePoisonMode page_poison = PagePoisonMode::kOff;
  // The vCPU whose pages hold the queues, and go into the balloon.
  int cpu = 0;
};

// The guest's half of a memory balloon (virtio 1.3 §5.5): carries reports of
// free pages to the device, one chain a report, one report at a time
// (virtballoon_report_pages); gives pages up, tells statistics and hints where
// the host wants them.
//
//   auto driver = BalloonDriver::Create(device, ram, allocator, workqueue);
//   (*driver)->Report(ranges, client);   // then client.ReportDone(status)
//   (*driver)->Remove();
//
// If the device sets NEEDS_RESET, or hands back what it was not given, the
// driver resets it. When a reset is complete, however it came about, an
// outstanding report ends with Unavailable, and all pages are the guest's. Till
// then they stay isolated: the host may yet discard them.
//
// What free memory holds decides on two features, as in Linux
// (virtballoon_validate): a guest that neither poisons nor clears it takes no
// PAGE_POISON; one that does takes no PAGE_REPORTING without PAGE_POISON, since
// the host would take the poison away (§5.5.3.1).
class BalloonDriver final : public ReportingDevice {
 public:
  // Sets the device up (virtio 1.3 §3.1.1, §5.5.5), its queues in pages of
  // `allocator`; completions run on `workqueue`. All four must outlive this.
  // FailedPrecondition if `device` is not a balloon, does not know VERSION_1,
  // or has not the queues that it offers; InvalidArgument if a queue size is
  // not a power of 2; ResourceExhausted if there are no pages for the queues.
  // The device's status is then FAILED.
  static absl::StatusOr<std::unique_ptr<BalloonDriver>> Create(
      VirtioDevice& device, const GuestRam& ram, PageAllocator& allocator,
      Workqueue& workqueue, const BalloonDriverOptions& options = {});

  // Removes, and waits until the reset is complete. REQUIRES: that takes less
  // than ten minutes (CHECKed): so not from inside a discard of the device on
  // the same thread, and not while its process is stopped.
  ~BalloonDriver() override;

  // Those agreed on with the device when it was last set up. REQUIRES: that is
  // not being done on another thread.
  uint64_t features() const { return features_; }

  // 0 without PAGE_REPORTING. While the driver is down, what it was.
  size_t max_report_entries() const override;
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override;

  // Resets the device for the time in which the guest is suspended (Linux,
  // virtballoon_freeze). True if the reset is complete; else, as from inside a
  // discard of the device on the same thread, that comes, and is_down() says
  // so. Reports are refused till Restore. Again: no effect.
  // REQUIRES: not called from inside ReportDone.
  bool Freeze();
  // Sets the device up again: after Freeze, or after it was broken.
  // FailedPrecondition if the driver is not down, or was removed; else as
  // Create, and the driver stays down; also if the device takes fewer entries a
  // report than before.
  absl::Status Restore();
  // As Freeze, for good.
  bool Remove();
  // Whether a reset was asked for, and is complete.
  bool is_down() const;

  // Kicks of the device so far, for reports.
  uint64_t kicks() const;
  // Pages that its queues lie in; that are in the balloon; that are held as
  // hints.
  PageCount queue_pages() const;
  PageCount balloon_pages() const;
  PageCount hinted_pages() const;

  // Those of the reporting queue, and that an outstanding report is in it.
  absl::Status CheckInvariants() const;

 private:
  enum class State {
    kStarting,
    kReady,
    kBroken,     // found broken: to be reset
    kResetting,  // the reset was asked for
    kDown,       // and is complete
  };
  // Why there is no report to be had.
  enum class Reason { kBroken, kFrozen, kRemoved };

  BalloonDriver(VirtioDevice& device, const GuestRam& ram,
                PageAllocator& allocator, Workqueue& workqueue,
                const BalloonDriverOptions& options);

  // Takes the device from reset to DRIVER_OK. On error, what was done stays, to
  // be undone by a reset.
  absl::Status Start();
  absl::Status Negotiate();
  absl::Status SetUpQueues();
  DriverContext transport() const;
  // A queue of the balloon's; where it is and its features are filled in.
  absl::StatusOr<std::unique_ptr<DriverVirtqueue>> SetUpQueue(
      BalloonQueue queue, const DriverVirtqueueOptions& wanted);
  // Start, or FAILED.
  absl::Status StartOrFail();

  // Asks for a reset; true if it is complete, with all that follows.
  bool Reset(Reason reason);
  // What follows, once: the report ends, and pages and queues are freed.
  void ResetIsComplete();

  // The works.
  void HandleUsed();
  void HandleConfigChange();
  // Brings balloon and hints a step nearer to what the configuration wants.
  void Step();
  // OK, or DataLoss for a broken ring. True if a step is due.
  absl::StatusOr<bool> TakeUsed();
  std::optional<BalloonConfig> ReadConfig() const;
  // Ends the outstanding report, if there is one.
  void EndReport(const absl::Status& status);

  VirtioDevice& device_;
  const GuestRam& ram_;
  PageAllocator& allocator_;
  Workqueue& workqueue_;
  const BalloonDriverOptions options_;

  // Set by Start.
  uint64_t offered_ = 0;
  uint64_t features_ = 0;
  // From Start until the reset is complete. The works' alone, but that others
  // may ask, with the lock held, how much they hold.
  std::unique_ptr<BalloonInflation> inflation_;
  std::unique_ptr<GuestStatistics> statistics_;
  std::unique_ptr<BalloonHinting> hinting_;

  // The reporting queue's lock: a leaf.
  mutable SpinLock lock_;
  State state_ ABSL_GUARDED_BY(lock_) = State::kDown;
  Reason reason_ ABSL_GUARDED_BY(lock_) = Reason::kBroken;
  std::unique_ptr<DriverVirtqueue> reporting_ ABSL_GUARDED_BY(lock_);
  size_t most_entries_ ABSL_GUARDED_BY(lock_) = 0;
  PageCount queue_pages_ ABSL_GUARDED_BY(lock_);
  Client* client_ ABSL_GUARDED_BY(lock_) = nullptr;
  uint64_t kicks_ ABSL_GUARDED_BY(lock_) = 0;

  Work used_work_;
  Work config_work_;
  Work retry_work_;
  WorkNotifier used_;
  WorkNotifier config_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DRIVER_BALLOON_DRIVER_H_
