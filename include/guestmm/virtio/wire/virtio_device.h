#ifndef GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_
#define GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

// Device status bits (virtio 1.3 §2.1).
inline constexpr uint8_t kVirtioAcknowledge = 1;  // the guest sees the device
inline constexpr uint8_t kVirtioDriver = 2;       // the guest has a driver
inline constexpr uint8_t kVirtioDriverOk = 4;     // the driver is ready
inline constexpr uint8_t kVirtioFeaturesOk = 8;   // features are negotiated
inline constexpr uint8_t kVirtioNeedsReset = 64;  // the device has given up
inline constexpr uint8_t kVirtioFailed = 128;     // the driver has given up

// Feature bits common to all devices (§6).
inline constexpr uint64_t kVirtioFVersion1 = uint64_t{1} << 32;

// A kind of device: what a driver needs to know and some transports do not
// carry (vhost-user).
struct VirtioDeviceKind {
  uint32_t device_id = 0;  // §5
  // The sizes that the device's configuration may have, depending on its
  // features: in bytes, largest first. The array must be static.
  std::span<const uint32_t> config_sizes = {};
};

// A queue that the device found broken.
struct VirtioFault {
  uint16_t queue = 0;
  absl::Status why;  // names the queue
};

// A virtio device as seen by its driver, independent of the transport: it may
// be in the same process or behind a socket. Thread-safe. The device does not
// trust its caller: no argument from a driver can crash it.
//
// The order of set-up is that of §3.1.1: reset, ACKNOWLEDGE, DRIVER, features,
// FEATURES_OK (read back), queues, DRIVER_OK.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // The kind of device (§5), e.g. 5 for a memory balloon.
  virtual uint32_t device_id() const = 0;

  // The features that the device offers.
  virtual uint64_t DeviceFeatures() const = 0;
  // Sets the features that the driver accepts. InvalidArgument if one was not
  // offered; FailedPrecondition if they differ from those that a queue was set
  // up with. The device tolerates other features after FEATURES_OK, since a
  // front end of vhost-user may start a new driver without a reset.
  virtual absl::Status SetDriverFeatures(uint64_t features) = 0;

  virtual uint8_t status() const = 0;
  // The reason of NEEDS_RESET; nullopt if it is not set, or if the device is
  // behind a transport that does not tell.
  virtual std::optional<VirtioFault> fault() const { return std::nullopt; }
  // Sets the bits in `status`; they stay set until a reset (§2.1.1).
  // FEATURES_OK stays clear if the accepted features are not sufficient, and
  // DRIVER_OK if FEATURES_OK is clear: read status() back.
  //
  // 0 resets the device (§2.4). Once status() reads 0 the device has forgotten
  // queues and notifiers; it touches, discards and notifies nothing. If the
  // device is in the same process, SetStatus(0) waits for the work in progress,
  // and the reset is complete on return. The exception is a call from inside
  // that work, on the same thread, such as a discard during which the guest
  // runs on. In that case, and if the device is in another process, the reset
  // completes later, or never if that process is stopped: poll status().
  virtual void SetStatus(uint8_t status) = 0;

  // Changes whenever the configuration may have changed (§2.5): if it is the
  // same before and after two reads, both read the same configuration.
  virtual uint32_t ConfigGeneration() const = 0;
  // Reads from the device-specific configuration (§2.5), at any time.
  // OutOfRange if it ends before `offset` + `bytes.size()`.
  virtual absl::Status ReadConfig(uint32_t offset,
                                  std::span<std::byte> bytes) const = 0;
  // Writes to the configuration. OutOfRange as above; InvalidArgument if the
  // driver may not write there, or not now. Writes nothing on error.
  virtual absl::Status WriteConfig(uint32_t offset,
                                   std::span<const std::byte> bytes) = 0;

  // The largest number of descriptors that queue `index` can have; 0 if there
  // is no such queue.
  virtual uint16_t MaxQueueSize(uint16_t index) const = 0;
  // Sets queue `index` up at `layout`. The device notifies `used` of used
  // chains; it must live until the device is reset. Returns the kick, which the
  // driver notifies of available chains; it lives as long as the device.
  // NotFound if there is no such queue; InvalidArgument if it is too large or
  // not in guest RAM (see VirtqueueMemory::Map); FailedPrecondition before
  // FEATURES_OK, or if the queue is set up already.
  virtual absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                               const VirtqueueLayout& layout,
                                               Notifier& used) = 0;
  // As SetUpQueue, for a queue that has been used: the first chain is that of
  // entry `start` of its available ring, as StopQueue returned it. The driver
  // may not kick again for chains that are available: notify the kick.
  // Unimplemented if the device's queues stop only together, by a reset.
  virtual absl::StatusOr<Notifier*> ResumeQueue(uint16_t index,
                                                const VirtqueueLayout& layout,
                                                Notifier& used, uint16_t start);
  // Ends the use of queue `index`, after the chain in hand: from now on the
  // device does not touch it, and does not notify `used`. Features,
  // configuration, status and the other queues stay as they are. Returns the
  // entry to resume at: that of the first chain that was not returned to the
  // driver. NEEDS_RESET ends with the queue that was broken. NotFound if the
  // queue is not set up; Unimplemented as above.
  // REQUIRES: not called from inside the device's own work (CHECKed).
  virtual absl::StatusOr<uint16_t> StopQueue(uint16_t index);
  // Sets the notifier for changes of the configuration and for NEEDS_RESET. It
  // must live until the device is reset.
  virtual void SetConfigNotifier(Notifier& config) = 0;
};

// OutOfRange unless `bytes` bytes from `offset` lie within a configuration of
// `size` bytes. For implementations of ReadConfig and WriteConfig.
absl::Status CheckConfigRange(uint32_t offset, size_t bytes, size_t size);

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_VIRTIO_DEVICE_H_
