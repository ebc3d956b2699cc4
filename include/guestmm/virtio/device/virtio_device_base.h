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
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

// What a device does alike whatever kind it is of: status, features,
// configuration, and queues that are looked at on a workqueue, one chain at a
// time. A kind of device derives from it and says what a chain means.
//
// The guest is not trusted. Each look at a queue takes at most as many chains
// as the queue is long, so that a guest that never stops leaves the workqueue
// to others too. A broken queue cannot be acknowledged: the device sets
// NEEDS_RESET and stops (§2.1.2).
class VirtioDeviceBase : public VirtioDevice {
 public:
  VirtioDeviceBase(const VirtioDeviceBase&) = delete;
  VirtioDeviceBase& operator=(const VirtioDeviceBase&) = delete;

  uint64_t DeviceFeatures() const final { return features_; }
  absl::Status SetDriverFeatures(uint64_t features) final;
  uint8_t status() const final;
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
  void SetConfigNotifier(Notifier& config) final;

  // Those of every queue. REQUIRES: none is being handled on another thread.
  absl::Status CheckInvariants() const;

 protected:
  // What becomes of a chain that was handled.
  enum class Verdict {
    kGiveBack,
    kKeep,  // until GiveBack
  };

  // A device of queues 0 to `queues` - 1 and a configuration of `config_bytes`
  // zeroes, which offers `features`. Both references must outlive it.
  VirtioDeviceBase(const GuestRam& ram, Workqueue& workqueue, uint64_t features,
                   uint16_t queues, size_t config_bytes);
  ~VirtioDeviceBase() override;

  // Resets for good. To be called by the destructor of each kind, before what
  // its handlers use is gone. REQUIRES: no one kicks, and not called by what
  // the device itself is running (CHECKed).
  void ShutDown();

  // Not held while a queue is handled or anyone is notified.
  mutable Mutex mutex_;

  // What each kind of device says of itself. Called with the lock held.
  //
  // Whether a driver that accepts `features` is served (§3.1.1, step 5).
  virtual bool Suffices(uint64_t /*features*/) const { return true; }
  // The most descriptors of queue `index`, with `features` accepted so far; 0
  // if it does not exist then.
  virtual uint16_t QueueSize(uint16_t index, uint64_t features) const = 0;
  // Whether a queue that exists may be used by a driver that took `features`.
  virtual bool MayUse(uint16_t index, uint64_t features) const = 0;
  // Whether the driver may write so many bytes there; they are in bounds.
  virtual absl::Status CheckConfigWrite(uint32_t offset, size_t bytes,
                                        uint64_t features,
                                        uint8_t status) const = 0;
  // The device was reset.
  virtual void WasReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // The handlers: on the workqueue, one at a time, without the lock, and never
  // while the device is reset. A reset from inside is complete when they ended.
  //
  // Does what a chain asks for.
  virtual Verdict HandleChain(uint16_t index, const DescriptorChain& chain) = 0;
  // A chain is about to be given back; it is not if a reset was asked for
  // meanwhile.
  virtual void Acknowledging(uint16_t /*index*/) {}
  // Queue `index` is broken.
  virtual void FoundBroken(uint16_t /*index*/) {}
  // Whatever else is due: see AskForHandling.
  virtual void HandleRequests() {}

  // For handlers: gives back a chain that was kept. The queue exists.
  void GiveBack(uint16_t index, uint16_t head);
  // Whether a reset was asked for, so that what this works at is moot.
  bool Stopping() const;

  // Makes HandleRequests run soon. From any thread.
  void AskForHandling() {
    is_asked_.store(true);
    workqueue_.Queue(work_);
  }

  // The configuration's field at `offset`. From any thread.
  template <typename Field>
  Field GetConfig(size_t offset) const {
    LockHolder hold(mutex_);
    Field field;
    std::memcpy(&field, config_.data() + offset, sizeof(field));
    return field;
  }
  // Changes it. The driver is told by the handler: AskForHandling, when the
  // lock is free.
  template <typename Field>
  void ChangeConfig(size_t offset, Field field)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::memcpy(config_.data() + offset, &field, sizeof(field));
    ++generation_;
    config_changed_ = true;
  }
  // For WasReset: clears a field that the driver had written.
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

 private:
  // A queue as the driver set it up.
  struct Queue {
    DeviceQueue ring;
    Notifier& used;
  };
  // The driver's kick of one queue.
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
  // What became of one look at a queue.
  enum class Round {
    kDry,      // nothing left: the next kick goes on
    kMore,     // stopped for others' sake: another look is due
    kStopped,  // a reset was asked for
    kBroken,
  };

  // The work.
  void Handle();
  // The queues that were kicked; true if there is more to do.
  bool HandleQueues();
  Round HandleQueue(uint16_t index, Queue& queue);
  void Push(uint16_t index, Queue& queue, uint16_t head);
  void Break(uint16_t index);
  // Tells the driver, if its configuration changed.
  void NotifyConfig();
  bool IsRunning() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestRam& ram_;
  Workqueue& workqueue_;
  const uint64_t features_;
  std::vector<std::unique_ptr<Kick>> kicks_;

  std::condition_variable_any handler_left_;
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::byte> config_ ABSL_GUARDED_BY(mutex_);
  uint32_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool config_changed_ ABSL_GUARDED_BY(mutex_) = false;
  Notifier* config_notifier_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // The thread that handles. While it is there, what `queues_` points to is its
  // own.
  std::optional<std::thread::id> handler_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Queue>> queues_ ABSL_GUARDED_BY(mutex_);
  // A reset waits for the handler to leave.
  bool resetting_ ABSL_GUARDED_BY(mutex_) = false;

  // Whether anyone asked since the handler last began.
  std::atomic<bool> is_asked_{false};
  // The queues to look at, a bit each.
  std::atomic<uint32_t> kicked_{0};
  Work work_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_VIRTIO_DEVICE_BASE_H_
