#ifndef GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_
#define GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

struct VhostUserDeviceOptions {
  // vhost-user does not say what kind of device it is, nor how large its queues
  // may be: one that is too large for it is refused at set-up.
  uint32_t device_id = kBalloonDeviceId;
  uint16_t max_queue_size = 1024;
  // How long to wait for an answer, in real time. After that the connection is
  // given up.
  Nanoseconds timeout = std::chrono::seconds(5);
};

// A device that another process has, the VMM, as its driver sees it: reached by
// vhost-user over a Unix socket. Guest RAM, which must be of memfds, is mapped
// there too; what is added to it later is told, and what is removed.
//
//   auto device = VhostUserDevice::Connect("/run/balloon.sock", ram);
//   auto driver = BalloonDriver::Create(**device, ram, allocator, workqueue);
//
// No call waits for longer than `timeout`, whatever the VMM does. If it does
// not answer, breaks the protocol or closes the socket, the connection is lost,
// which shows as NEEDS_RESET, and the config notifier is notified.
//
// A reset (SetStatus(0)) is complete when the VMM said so, or when its
// *process* is gone. That the socket is closed does not suffice: a VMM that was
// stopped can wake up, and would discard memory that is in use again. So until
// then status() is not 0, and a driver does not give back what was reported.
// That process is the one that called listen(): it must be the one that serves.
// status() waits for it, until `timeout` after SetStatus(0); later it tells at
// once.
class VhostUserDevice final : public VirtioDevice {
 public:
  // Connects, and shares all of `ram`, which must outlive this.
  // InvalidArgument if the path is too long for a socket, or RAM is of another
  // source than kSharedMemfd and kHugetlb; FailedPrecondition if what answers
  // there does not speak the protocol features that this needs; Unavailable if
  // no one listens, answers in time, or can be watched; else the error that the
  // VMM answered with, to the request that the text names.
  static absl::StatusOr<std::unique_ptr<VhostUserDevice>> Connect(
      const std::string& path, GuestRam& ram,
      const VhostUserDeviceOptions& options = {});

  // Closes the connection. REQUIRES: no driver uses it any more, and either it
  // was reset or the guest's memory is of no more use.
  ~VhostUserDevice() override;

  // Connects once more, to whoever listens at the path now, so that a driver
  // can set the device up again. FailedPrecondition unless status() is 0; else
  // errors as Connect. If the connection is there still: no effect.
  absl::Status Reconnect();

  // The caller promises that the guest's memory is of no more use: from here on
  // a reset is complete at once, whatever the VMM does. The connection is
  // closed, for good.
  void Abandon();

  // OK while the connection is there, else Unavailable says why it was lost.
  absl::Status connection() const;
  // Of the process at the other end.
  pid_t vmm_pid() const;

  uint32_t device_id() const override;
  uint64_t DeviceFeatures() const override;
  // Besides: Unavailable once the connection is lost, as SetUpQueue and
  // WriteConfig.
  absl::Status SetDriverFeatures(uint64_t features) override;
  uint8_t status() const override;
  void SetStatus(uint8_t status) override;
  uint32_t ConfigGeneration() const override;
  // Without a connection: of what was read last.
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override;
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override;
  uint16_t MaxQueueSize(uint16_t index) const override;
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override;
  void SetConfigNotifier(Notifier& config) override;

 private:
  class FrontEnd;

  explicit VhostUserDevice(std::unique_ptr<FrontEnd> front_end);

  const std::unique_ptr<FrontEnd> front_end_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_FRONT_END_DEVICE_H_
