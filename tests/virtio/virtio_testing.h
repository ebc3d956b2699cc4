#ifndef GUESTMM_TESTS_VIRTIO_VIRTIO_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VIRTIO_TESTING_H_

// What the room's tests share.

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
#include "guestmm/virtio/notifier.h"
#include "guestmm/virtio/virtio_device.h"
#include "guestmm/virtio/virtqueue.h"

namespace guestmm {

inline std::unique_ptr<GuestRam> MakeRam(std::vector<GpaRange> regions) {
  auto ram = GuestRam::Create({.regions = std::move(regions)});
  GUESTMM_CHECK(ram.ok()) << std::string(ram.status().message());
  return *std::move(ram);
}

inline std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// Counts. `then`, if any, runs on each notification.
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

// A device, whose queues' places are remembered.
class WatchedDevice final : public VirtioDevice {
 public:
  explicit WatchedDevice(VirtioDevice& device) : device_(device) {}

  // Where the driver put queue `index`. REQUIRES: it did.
  VirtqueueMemory QueueMemory(const GuestRam& ram, uint16_t index) const {
    return VirtqueueMemory::Map(ram, layouts_.at(index)).value();
  }

  uint32_t device_id() const override { return device_.device_id(); }
  uint64_t DeviceFeatures() const override { return device_.DeviceFeatures(); }
  absl::Status SetDriverFeatures(uint64_t features) override {
    return device_.SetDriverFeatures(features);
  }
  uint8_t status() const override { return device_.status(); }
  void SetStatus(uint8_t status) override { device_.SetStatus(status); }
  uint32_t ConfigGeneration() const override {
    return device_.ConfigGeneration();
  }
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override {
    return device_.ReadConfig(offset, bytes);
  }
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override {
    return device_.WriteConfig(offset, bytes);
  }
  uint16_t MaxQueueSize(uint16_t index) const override {
    return device_.MaxQueueSize(index);
  }
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override {
    layouts_[index] = layout;
    return device_.SetUpQueue(index, layout, used);
  }
  void SetConfigNotifier(Notifier& config) override {
    device_.SetConfigNotifier(config);
  }

 private:
  VirtioDevice& device_;
  std::map<uint16_t, VirtqueueLayout> layouts_;
};

// A driver that obeys nothing: it writes what it likes where a queue is.
class HostileDriver {
 public:
  HostileDriver(const GuestRam& ram, const VirtqueueLayout& layout)
      : memory_(VirtqueueMemory::Map(ram, layout).value()) {
    memory_.Clear();
  }

  void Describe(uint16_t index, const VirtqDesc& descriptor) {
    memory_.StoreDescriptor(index, descriptor);
  }
  // Names `head` in the next entry of the available ring, and moves the index.
  void Offer(uint16_t head) {
    memory_.available_ring(memory_.slot(available_idx_)).store(head);
    JumpTo(static_cast<uint16_t>(available_idx_ + 1));
  }
  // Offers `descriptors`, in the table from 0 on, linked as they come.
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
