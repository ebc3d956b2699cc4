#ifndef GUESTMM_VIRTIO_BALLOON_DEVICE_H_
#define GUESTMM_VIRTIO_BALLOON_DEVICE_H_

#include <array>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/hypervisor/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/balloon.h"
#include "guestmm/virtio/device_queue.h"
#include "guestmm/virtio/notifier.h"
#include "guestmm/virtio/virtio_device.h"
#include "guestmm/virtio/virtqueue.h"

namespace guestmm {

struct BalloonDeviceOptions {
  // The most descriptors of the reporting queue: a power of 2, at most
  // kMaxVirtqueueSize. QEMU's is 32.
  uint16_t reporting_queue_size = 32;
  QueueNumbering queue_numbering = QueueNumbering::kCompact;
  // Which of them are offered.
  VirtqueueFeatures queue_features = {.indirect = true, .event_index = true};
};

// What a balloon device did and refused so far.
struct BalloonDeviceCounters {
  uint64_t reports = 0;       // chains taken off the reporting queue
  uint64_t acknowledged = 0;  // and given back
  // Descriptors handed to the hypervisor, and their bytes.
  uint64_t ranges = 0;
  uint64_t bytes = 0;
  // Batches for which the hypervisor returned an error.
  uint64_t discard_errors = 0;
  // Queues found broken: NEEDS_RESET was set.
  uint64_t broken_queues = 0;

  // Descriptors skipped, by the first reason that applied. A descriptor of an
  // indirect table is one like any other.
  uint64_t skipped_indirect = 0;       // INDIRECT, which was not negotiated
  uint64_t skipped_readable = 0;       // not for the device to write
  uint64_t skipped_empty = 0;          // length 0
  uint64_t skipped_unaligned = 0;      // not in whole discard granules
  uint64_t skipped_outside_ram = 0;    // starts in no region
  uint64_t skipped_across_region = 0;  // runs out of its region

  // Indirect tables skipped as a whole, by TableFault.
  std::array<uint64_t, kTableFaults> skipped_tables = {};

  uint64_t skipped() const {
    return skipped_indirect + skipped_readable + skipped_empty +
           skipped_unaligned + skipped_outside_ram + skipped_across_region +
           std::accumulate(skipped_tables.begin(), skipped_tables.end(),
                           uint64_t{0});
  }
};

// The host's half of a memory balloon: takes reports of free pages and lets the
// hypervisor discard them (virtio 1.3 §5.5.6.7).
//
// The guest is not trusted. A bad descriptor is skipped and counted, the others
// of its chain are discarded and the chain is acknowledged, whatever the
// hypervisor said: a report is a hint. A broken queue cannot be acknowledged:
// the device sets NEEDS_RESET and stops.
class BalloonDevice final : public VirtioDevice {
 public:
  // Works on `workqueue`. All three must outlive this.
  // REQUIRES: the queue size is one that BalloonDeviceOptions allows (CHECKed).
  BalloonDevice(const GuestRam& ram, Hypervisor& hypervisor,
                Workqueue& workqueue, const BalloonDeviceOptions& options = {});
  // Resets. REQUIRES: no one kicks, and no discard of this is running on the
  // calling thread.
  ~BalloonDevice() override;

  uint32_t device_id() const override { return kBalloonDeviceId; }
  uint64_t DeviceFeatures() const override {
    return kVirtioFVersion1 | kBalloonFPageReporting |
           ToFeatureBits(options_.queue_features);
  }
  absl::Status SetDriverFeatures(uint64_t features) override;
  uint8_t status() const override;
  void SetStatus(uint8_t status) override;
  uint32_t ConfigGeneration() const override { return 0; }
  absl::Status ReadConfig(uint32_t,
                          std::span<std::byte>) const override {
    return absl::OutOfRangeError("no configuration");
  }
  absl::Status WriteConfig(uint32_t,
                           std::span<const std::byte>) override {
    return absl::OutOfRangeError("no configuration");
  }
  uint16_t MaxQueueSize(uint16_t index) const override;
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override;
  void SetConfigNotifier(Notifier& config) override;

  BalloonDeviceCounters counters() const;

  // Those of the reporting queue; OK while it is being handled.
  absl::Status CheckInvariants() const;

 private:
  // The reporting queue as the driver set it up.
  struct ReportingQueue {
    DeviceQueue ring;
    Notifier& used;
  };
  // What became of one round over the queue.
  enum class Round {
    kDry,      // nothing left: the next kick goes on
    kMore,     // stopped for others' sake: another round is due
    kStopped,  // a reset was asked for
    kBroken,
  };

  // The work: one round, on the workqueue.
  void HandleReports();
  // At most as many chains as the queue has descriptors, so that a guest that
  // never stops leaves the workqueue to others too.
  Round RunRound(ReportingQueue& queue);
  // Discards what is valid of `chain`.
  void HandleReport(const DescriptorChain& chain);
  // What `descriptor` names; none, and counted, if it is bad.
  std::optional<GpaRange> CheckDescriptor(const VirtqDesc& descriptor);
  // Publishes what was counted, with the acknowledgement that is now due: true.
  // False if none is, since a reset was asked for.
  bool CountAcknowledgement();
  void ResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestRam& ram_;
  Hypervisor& hypervisor_;
  Workqueue& workqueue_;
  const BalloonDeviceOptions options_;
  const uint16_t reporting_index_;
  // The handler's alone: the ranges of the report in hand, and what it counted.
  std::vector<GpaRange> batch_;
  BalloonDeviceCounters tally_;

  // Not held while the queue is handled, a discard runs or anyone is notified.
  mutable Mutex mutex_;
  std::condition_variable_any handler_left_;
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(mutex_) = 0;
  Notifier* config_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Null while the handler has it, which `handler_` names.
  std::unique_ptr<ReportingQueue> queue_ ABSL_GUARDED_BY(mutex_);
  std::optional<std::thread::id> handler_ ABSL_GUARDED_BY(mutex_);
  // A reset waits for the handler to leave.
  bool resetting_ ABSL_GUARDED_BY(mutex_) = false;
  BalloonDeviceCounters counters_ ABSL_GUARDED_BY(mutex_);

  Work work_;
  WorkNotifier kick_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_BALLOON_DEVICE_H_
