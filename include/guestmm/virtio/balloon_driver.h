#ifndef GUESTMM_VIRTIO_BALLOON_DRIVER_H_
#define GUESTMM_VIRTIO_BALLOON_DRIVER_H_

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
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/reporting_device.h"
#include "guestmm/virtio/balloon.h"
#include "guestmm/virtio/driver_queue.h"
#include "guestmm/virtio/notifier.h"
#include "guestmm/virtio/virtio_device.h"

namespace guestmm {

struct BalloonDriverOptions {
  // The most descriptors of the reporting queue, a power of 2; fewer if the
  // device takes fewer. Linux asks for 32, v12 for 16.
  uint16_t reporting_queue_size = 32;
  QueueNumbering queue_numbering = QueueNumbering::kCompact;
  // Which of them are accepted if the device offers them.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
  // The vCPU whose pages hold the queue.
  int cpu = 0;
};

// The guest's half of a memory balloon: carries reports of free pages to the
// device, one chain a report, one report at a time (virtballoon_report_pages).
//
//   auto driver = BalloonDriver::Create(device, ram, allocator, workqueue);
//   (*driver)->Report(ranges, client);   // then client.ReportDone(status)
//   (*driver)->Remove();
//
// If the device sets NEEDS_RESET, or hands back what it was not given, the
// driver resets it, ends the outstanding report with Unavailable, and accepts
// no more.
class BalloonDriver final : public ReportingDevice {
 public:
  // Sets the device up for free page reporting (virtio 1.3 §3.1.1, §5.5.5), its
  // queue in pages of `allocator`; completions run on `workqueue`. All four
  // must outlive this. FailedPrecondition if `device` is not a balloon or
  // cannot report; InvalidArgument if the queue size is not a power of 2;
  // ResourceExhausted if there are no pages for the queue. The device's status
  // is then FAILED.
  static absl::StatusOr<std::unique_ptr<BalloonDriver>> Create(
      VirtioDevice& device, const GuestRam& ram, PageAllocator& allocator,
      Workqueue& workqueue, const BalloonDriverOptions& options = {});

  // Removes.
  ~BalloonDriver() override;

  size_t max_report_entries() const override { return queue_size_; }
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override;

  // Resets the device, waits for what it is doing, ends an outstanding report
  // with Unavailable, and frees the queue's pages. Again: no effect.
  // REQUIRES: not called from inside ReportDone, nor from inside a discard of
  // the device on the same thread (CHECKed).
  void Remove();

  // Kicks of the device so far, for reports.
  uint64_t kicks() const;

  // Those of the queue, and that an outstanding report is in it.
  absl::Status CheckInvariants() const;

 private:
  enum class State {
    kReady,
    kBroken,  // found broken: to be reset
    kReset,   // the reset was asked for
    kRemoved,
  };

  BalloonDriver(VirtioDevice& device, PageAllocator& allocator,
                Workqueue& workqueue, const BalloonDriverOptions& options);

  // The rest of Create. On error, Remove undoes what was done.
  absl::Status Start(const GuestRam& ram);
  // Pages for a queue of queue_size_, and for the indirect table behind it if
  // the driver is to have one.
  absl::StatusOr<VirtqueueLayout> AllocateQueue(bool has_table);

  // The works.
  void HandleUsed();
  void HandleConfigChange();
  // Ends the outstanding report, if there is one.
  void EndReport(const absl::Status& status);

  VirtioDevice& device_;
  PageAllocator& allocator_;
  Workqueue& workqueue_;
  const BalloonDriverOptions options_;

  // Set by Start.
  uint16_t queue_size_ = 0;
  std::optional<Pfn> queue_pfn_;
  Order queue_order_;
  Notifier* kick_ = nullptr;

  // The virtqueue's lock: a leaf.
  mutable SpinLock lock_;
  State state_ ABSL_GUARDED_BY(lock_) = State::kReady;
  std::optional<DriverQueue> queue_ ABSL_GUARDED_BY(lock_);
  Client* client_ ABSL_GUARDED_BY(lock_) = nullptr;
  uint64_t kicks_ ABSL_GUARDED_BY(lock_) = 0;

  Work used_work_;
  Work config_work_;
  WorkNotifier used_;
  WorkNotifier config_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_BALLOON_DRIVER_H_
