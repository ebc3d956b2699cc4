#ifndef GUESTMM_TESTS_VIRTIO_VIRTIO_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VIRTIO_TESTING_H_

// Helpers for the tests of virtio.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/reporting_device.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

inline std::unique_ptr<GuestRam> MakeRam(std::vector<GpaRange> regions) {
  auto ram = GuestRam::Create({.regions = std::move(regions)});
  GUESTMM_CHECK(ram.ok()) << std::string(ram.status().message());
  return *std::move(ram);
}

inline std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// Counts notifications, and calls `then` on each, if given.
class CountingNotifier final : public Notifier {
 public:
  explicit CountingNotifier(std::function<void()> then = {})
      : then_(std::move(then)) {}

  void Notify() override {
    ++count_;
    if (then_) then_();
  }
  int count() const { return count_; }

 private:
  std::atomic<int> count_{0};
  std::function<void()> then_;
};

// Counts reports that ended, by result, and whether one is outstanding.
class CountingClient final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override {
    ++(status.ok() ? acknowledged : unavailable);
    acknowledged.notify_all();
    outstanding = false;
    outstanding.notify_all();
  }
  // Waits for `count` more acknowledgements.
  void AwaitMore(uint64_t count) {
    const uint64_t end = acknowledged + count;
    for (uint64_t now = acknowledged; now < end; now = acknowledged) {
      acknowledged.wait(now);
    }
  }
  std::atomic<uint64_t> acknowledged{0};
  std::atomic<uint64_t> unavailable{0};
  std::atomic<bool> outstanding{false};
};

// Forwards to another device, which can be replaced.
class ForwardingDevice : public VirtioDevice {
 public:
  explicit ForwardingDevice(VirtioDevice& to) : to_(&to) {}

  void ForwardTo(VirtioDevice& to) { to_ = &to; }

  uint32_t device_id() const override { return to_->device_id(); }
  uint64_t DeviceFeatures() const override { return to_->DeviceFeatures(); }
  absl::Status SetDriverFeatures(uint64_t features) override {
    return to_->SetDriverFeatures(features);
  }
  uint8_t status() const override { return to_->status(); }
  void SetStatus(uint8_t status) override { to_->SetStatus(status); }
  uint32_t ConfigGeneration() const override { return to_->ConfigGeneration(); }
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override {
    return to_->ReadConfig(offset, bytes);
  }
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override {
    return to_->WriteConfig(offset, bytes);
  }
  uint16_t MaxQueueSize(uint16_t index) const override {
    return to_->MaxQueueSize(index);
  }
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override {
    return to_->SetUpQueue(index, layout, used);
  }
  void SetConfigNotifier(Notifier& config) override {
    to_->SetConfigNotifier(config);
  }

 private:
  VirtioDevice* to_;
};

// Records the layouts and kicks of the driver's queues.
class WatchedDevice final : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;

  // REQUIRES for both: the driver has set queue `index` up.
  Notifier& kick(uint16_t index) const { return *kicks_.at(index); }
  VirtqueueMemory QueueMemory(const GuestRam& ram, uint16_t index) const {
    return VirtqueueMemory::Map(ram, layouts_.at(index)).value();
  }

  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override {
    layouts_[index] = layout;
    absl::StatusOr<Notifier*> kick =
        ForwardingDevice::SetUpQueue(index, layout, used);
    kicks_[index] = kick.value_or(nullptr);
    return kick;
  }

 private:
  std::map<uint16_t, VirtqueueLayout> layouts_;
  std::map<uint16_t, Notifier*> kicks_;
};

// A driver that may write anything to a queue.
class HostileDriver {
 public:
  HostileDriver(const GuestRam& ram, const VirtqueueLayout& layout)
      : memory_(VirtqueueMemory::Map(ram, layout).value()) {
    memory_.Clear();
  }

  void Describe(uint16_t index, const VirtqDesc& descriptor) {
    memory_.StoreDescriptor(index, descriptor);
  }
  // Puts `head` into the next entry of the available ring, and advances the
  // index.
  void Offer(uint16_t head) {
    memory_.available_ring(memory_.slot(available_idx_)).store(head);
    JumpTo(static_cast<uint16_t>(available_idx_ + 1));
  }
  // Offers a chain of `descriptors`, from entry 0 of the table on.
  void OfferChain(std::initializer_list<VirtqDesc> descriptors) {
    uint16_t index = 0;
    for (VirtqDesc descriptor : descriptors) {
      if (index + 1u < descriptors.size()) {
        descriptor.flags |= kVirtqDescNext;
        descriptor.next = static_cast<uint16_t>(index + 1);
      }
      Describe(index++, descriptor);
    }
    Offer(0);
  }
  void JumpTo(uint16_t available_idx) {
    available_idx_ = available_idx;
    memory_.available_idx().store(available_idx);
  }
  void SuppressNotifications() {
    memory_.available_flags().store(kVirtqAvailNoInterrupt);
  }

  uint16_t used_idx() const { return memory_.used_idx().load(); }
  VirtqUsedElem used(uint16_t slot) const { return memory_.LoadUsed(slot); }
  const VirtqueueMemory& memory() const { return memory_; }

 private:
  VirtqueueMemory memory_;
  uint16_t available_idx_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VIRTIO_TESTING_H_
