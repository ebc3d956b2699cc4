#ifndef GUESTMM_VIRTIO_DEVICE_VIRTIO_DEVICE_BASE_H_
#define GUESTMM_VIRTIO_DEVICE_VIRTIO_DEVICE_BASE_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

// The base class of virtio devices: status, features, configuration, and
// queues, whose chains it takes one at a time, on a workqueue. A derived class
// implements what a chain means.
//
// The guest is not trusted. One pass over a queue takes at most as many chains
// as the queue has descriptors, so that a guest that keeps adding chains does
// not starve other work. The chains of a broken queue cannot be acknowledged:
// the device sets NEEDS_RESET and stops (§2.1.2), until a reset or until the
// broken queue is stopped: some front ends of vhost-user never reset.
class VirtioDeviceBase : public VirtioDevice {
 public:
  VirtioDeviceBase(const VirtioDeviceBase&) = delete;
  VirtioDeviceBase& operator=(const VirtioDeviceBase&) = delete;

  uint64_t DeviceFeatures() const final { return features_; }
  absl::Status SetDriverFeatures(uint64_t features) final;
  uint8_t status() const final;
  std::optional<VirtioFault> fault() const final;
  void SetStatus(uint8_t status) final;
  uint32_t ConfigGeneration() const final;
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const final;
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) final;
  uint16_t MaxQueueSize(uint16_t index) const final;
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) final;
  absl::StatusOr<Notifier*> ResumeQueue(uint16_t index,
                                        const VirtqueueLayout& layout,
                                        Notifier& used, uint16_t start) final;
  absl::StatusOr<uint16_t> StopQueue(uint16_t index) final;
  void SetConfigNotifier(Notifier& config) final;

  // Checks every queue, once the handling in hand has ended. No handler may be
  // waiting for the calling thread.
  absl::Status CheckInvariants() const;

 protected:
  // The fate of a chain after it was handled.
  enum class Verdict {
    kGiveBack,
    kKeep,  // until GiveBack
  };

  // A device with queues 0 to `queues` - 1 and a zeroed configuration of
  // `config_bytes`, offering `features` and VERSION_1. Both references must
  // outlive it. `max_poll`: see Poll.
  VirtioDeviceBase(const GuestRam& ram, Workqueue& workqueue, uint64_t features,
                   uint16_t queues, size_t config_bytes,
                   Nanoseconds max_poll = Nanoseconds(0));
  ~VirtioDeviceBase() override;

  // Resets the device for good. The destructor of a derived class must call it
  // before destroying what its handlers use. REQUIRES: no kicks from here on;
  // not called from inside a handler (CHECKed).
  void ShutDown();

  // Not held while a queue is handled or a notifier is called.
  mutable Mutex mutex_;

  // Implemented by the derived class; called with the lock held.
  //
  // True if the device works with a driver that accepts `features` (§3.1.1,
  // step 5).
  virtual bool Suffices(uint64_t /*features*/) const { return true; }
  // The largest size of queue `index`, if `features` have been accepted so far;
  // 0 if the queue does not exist.
  virtual uint16_t QueueSize(uint16_t index, uint64_t features) const = 0;
  // True if a driver that accepted `features` may use queue `index`, which
  // exists.
  virtual bool MayUse(uint16_t index, uint64_t features) const = 0;
  // The fields that the driver may write. A write may span fields, as a front
  // end of vhost-user writes the whole configuration; other bytes are skipped.
  struct ConfigField {
    uint32_t offset;
    uint32_t bytes;
    // A write that changes the field while DRIVER_OK is set, and a queue is set
    // up, is an error.
    bool fixed_while_running;
    std::string_view name;
  };
  virtual std::span<const ConfigField> WritableConfig() const = 0;
  // Called when the driver has written `field`, or was refused.
  virtual void ConfigWritten(const ConfigField& /*field*/, bool /*accepted*/)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // Called when queue `index` was set up to begin at entry `start`: 0 if it is
  // new to its driver.
  virtual void QueueStarted(uint16_t /*index*/, uint16_t /*start*/)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // Called when queue `index` was stopped: a chain that was kept is forgotten.
  virtual void QueueStopped(uint16_t /*index*/)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // Called when the device was reset.
  virtual void WasReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // Postponed of a queue that waits for AskForHandling.
  static constexpr Nanoseconds kUntilAsked = Workqueue::kForever;
  // The time for which queue `index` takes no chain; 0 to go on. Looked at on
  // the workqueue before each chain, without the lock. Stopping the queue, and
  // a reset, do not wait for it.
  virtual Nanoseconds Postponed(uint16_t /*index*/) { return Nanoseconds(0); }

  // The handlers. Called on the workqueue, one at a time, without the lock, and
  // not while the device is reset. If a handler resets the device, the reset
  // completes when the handler returns.
  //
  // Handles one chain.
  virtual Verdict HandleChain(uint16_t index, const DescriptorChain& chain) = 0;
  // Called before a chain is returned. Not called if a reset was requested in
  // the meantime.
  virtual void Acknowledging(uint16_t /*index*/) {}
  // Called when queue `index` is found to be broken.
  virtual void FoundBroken(uint16_t /*index*/) {}
  // Called after AskForHandling, for work other than chains.
  virtual void HandleRequests() {}

  // Returns a chain that was kept. For handlers. REQUIRES: the queue is set up.
  void GiveBack(uint16_t index, uint16_t head);
  // True if a reset was requested, so that a handler can stop early.
  bool Stopping() const;

  // Schedules HandleRequests and a pass over kicked queues. Thread-safe.
  void AskForHandling() { workqueue_.Queue(work_); }

  // Reads the configuration field at `offset`. Thread-safe.
  template <typename Field>
  Field GetConfig(size_t offset) const {
    LockHolder hold(mutex_);
    return GetConfigLocked<Field>(offset);
  }
  template <typename Field>
  Field GetConfigLocked(size_t offset) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Field field;
    std::memcpy(&field, config_.data() + offset, sizeof(field));
    return field;
  }
  // Changes a configuration field. Call AskForHandling after releasing the
  // lock: the handler notifies the driver.
  template <typename Field>
  void ChangeConfig(size_t offset, Field field)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::memcpy(config_.data() + offset, &field, sizeof(field));
    ++generation_;
    config_changed_ = true;
  }
  // Zeroes a field that the driver had written. For WasReset.
  template <typename Field>
  void ClearConfig(size_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::memset(config_.data() + offset, 0, sizeof(Field));
    ++generation_;
  }
  uint64_t driver_features() const {
    LockHolder hold(mutex_);
    return driver_features_;
  }
  uint64_t driver_features_locked() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return driver_features_;
  }

  const GuestRam& ram() const { return ram_; }
  Nanoseconds Now() const { return workqueue_.Now(); }

 private:
  // A queue that the driver has set up.
  struct Queue {
    DeviceQueue ring;
    Notifier& used;
  };
  // The notifier by which the driver kicks one queue.
  class Kick final : public Notifier {
   public:
    Kick(VirtioDeviceBase& device, uint16_t index)
        : device_(device), index_(index) {}
    void Notify() override {
      device_.kicked_.fetch_or(uint32_t{1} << index_);
      device_.AskForHandling();
    }

   private:
    VirtioDeviceBase& device_;
    const uint16_t index_;
  };
  // The result of one pass over a queue.
  enum class Round {
    kDry,        // empty: the next kick continues
    kMore,       // limit reached, or a queue is to stop: another pass is due
    kPostponed,  // takes no chain for now
    kStopped,    // a reset was requested
    kBroken,
  };

  // The work function.
  void Handle();
  // Handles all kicked queues. True if another pass is due.
  bool HandleQueues();
  // Queues another pass for when `delay` has passed.
  void Resume(Nanoseconds delay);
  // Lowers `postponed` to the time for which the queue waits, if it does.
  Round HandleQueue(uint16_t index, Queue& queue, Nanoseconds& postponed);
  // Waits for the driver's next chain, in place of a kick: a driver that sends
  // one chain after another needs neither a kick nor a wake-up. For no longer
  // than the last chain took, so that at most half of the time is lost, and
  // max_poll_. False if there is none, or something else is to be done.
  bool Poll(const DeviceQueue& ring, Nanoseconds last_took) const;
  // The time by which polls are limited: real, so that each ends. 0 for a
  // device that does not poll.
  Nanoseconds PollTime() const;
  void Push(uint16_t index, Queue& queue, uint16_t head);
  void Break(uint16_t index, const absl::Status& why);
  // Notifies the driver if its configuration changed.
  void NotifyConfig();
  // True if the device agrees to `features`: VERSION_1, and what Suffices says.
  bool AgreesTo(uint64_t features) const;
  bool IsRunning() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if a queue is set up.
  bool HasQueues() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True while a call of StopQueue waits for the handler to leave.
  bool QueueStopping() const;
  void ResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestRam& ram_;
  Workqueue& workqueue_;
  const uint64_t features_;
  const Nanoseconds max_poll_;
  std::vector<std::unique_ptr<Kick>> kicks_;

  mutable std::condition_variable_any handler_left_;
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  // While status_ has NEEDS_RESET.
  std::optional<VirtioFault> fault_ ABSL_GUARDED_BY(mutex_);
  uint64_t driver_features_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::byte> config_ ABSL_GUARDED_BY(mutex_);
  uint32_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool config_changed_ ABSL_GUARDED_BY(mutex_) = false;
  Notifier* config_notifier_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // The thread that is handling queues. Until it is done, only that thread
  // accesses the objects in `queues_`.
  std::optional<std::thread::id> handler_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Queue>> queues_ ABSL_GUARDED_BY(mutex_);
  // A reset is waiting for the handler to finish.
  bool resetting_ ABSL_GUARDED_BY(mutex_) = false;
  // Calls of StopQueue that wait for it.
  int stopping_queues_ ABSL_GUARDED_BY(mutex_) = 0;

  // A bit for each queue that was kicked.
  std::atomic<uint32_t> kicked_{0};
  Work work_;
  // Asks for handling when a postponed queue is due.
  Work resume_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_VIRTIO_DEVICE_BASE_H_
