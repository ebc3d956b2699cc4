#ifndef GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_
#define GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

// Device status bits (virtio 1.3 §2.1).
inline constexpr uint8_t kVirtioAcknowledge = 1;  // the guest sees the device
inline constexpr uint8_t kVirtioDriver = 2;       // and has a driver for it
inline constexpr uint8_t kVirtioDriverOk = 4;     // which is ready
inline constexpr uint8_t kVirtioFeaturesOk = 8;   // features are agreed on
inline constexpr uint8_t kVirtioNeedsReset = 64;  // the device gave up
inline constexpr uint8_t kVirtioFailed = 128;     // the driver gave up

// Feature bits of every device (§6).
inline constexpr uint64_t kVirtioFVersion1 = uint64_t{1} << 32;

// A virtio device as its driver sees it, whatever the transport: in the same
// process, or behind a socket. All of it may be called from any thread.
// What comes from a driver is the guest's claim, so nothing it passes can crash
// the device.
//
// The order of set-up is §3.1.1's: reset, ACKNOWLEDGE, DRIVER, features,
// FEATURES_OK (read back), queues, DRIVER_OK.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // The kind of device: 5 is a memory balloon (§5).
  virtual uint32_t device_id() const = 0;

  // The features that the device offers.
  virtual uint64_t DeviceFeatures() const = 0;
  // The features that the driver accepts. InvalidArgument if one was not
  // offered; FailedPrecondition once FEATURES_OK is set.
  virtual absl::Status SetDriverFeatures(uint64_t features) = 0;

  virtual uint8_t status() const = 0;
  // Sets the bits of `status`; bits once set stay until a reset (§2.1.1).
  // FEATURES_OK stays clear where the accepted features do not suffice, and
  // DRIVER_OK where FEATURES_OK is clear: read status() back.
  //
  // 0 resets the device (§2.4). Once status() reads 0 the device has forgotten
  // queues and notifiers and touches, discards and notifies nothing. A device
  // in the same process is there when SetStatus(0) returns, which waits for
  // what the device is doing now; but for a call made by what the device itself
  // is running, such as a discard during which the guest goes on, on the same
  // thread. There, and with a device in another process, that comes later, or
  // never if that process is stopped: whoever needs it looks at status() again.
  virtual void SetStatus(uint8_t status) = 0;

  // Changes whenever what ReadConfig reads may have (§2.5): two reads with the
  // same generation before and after are of one configuration.
  virtual uint32_t ConfigGeneration() const = 0;
  // Reads from the device's own configuration (§2.5), at any time. OutOfRange
  // if it does not reach from `offset` that far.
  virtual absl::Status ReadConfig(uint32_t offset,
                                  std::span<std::byte> bytes) const = 0;
  // Writes to it. OutOfRange as above; InvalidArgument if the driver may not
  // write there, or not now. On error nothing is written.
  virtual absl::Status WriteConfig(uint32_t offset,
                                   std::span<const std::byte> bytes) = 0;

  // The most descriptors that queue `index` can have; 0 if there is no such
  // queue.
  virtual uint16_t MaxQueueSize(uint16_t index) const = 0;
  // Tells where queue `index` is, and whom to notify of used chains: `used`
  // must live until the device was reset. The result is the kick, for the
  // driver to notify of available chains; it lives as long as the device.
  // NotFound if there is no such queue; InvalidArgument if it is too large or
  // does not lie in guest RAM as VirtqueueMemory::Map wants it;
  // FailedPrecondition before FEATURES_OK or after DRIVER_OK.
  virtual absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                               const VirtqueueLayout& layout,
                                               Notifier& used) = 0;
  // Whom to notify when the configuration, or NEEDS_RESET, changed; must live
  // until the device was reset.
  virtual void SetConfigNotifier(Notifier& config) = 0;
};

// What ReadConfig and WriteConfig check: OutOfRange unless a configuration of
// `size` bytes has the `bytes` from `offset` on.
absl::Status CheckConfigRange(uint32_t offset, size_t bytes, size_t size);

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_
