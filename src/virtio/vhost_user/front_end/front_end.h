#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_FRONT_END_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_FRONT_END_H_

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/event_fd_notifier.h"
#include "guestmm/virtio/vhost_user/front_end/device.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "src/virtio/vhost_user/front_end/connection.h"
#include "src/virtio/vhost_user/front_end/shared_ram.h"

namespace guestmm {

// The one VhostUserDevice: the driver's side of the device state, that is
// status and resets, configuration and queues. Connection and memory have
// classes of their own. All state is guarded by the connection's lock. Caches
// of what the VMM last replied are mutable.
class VhostUserFrontEnd final : public VhostUserDevice,
                                private VhostUserConnection::Listener {
 public:
  VhostUserFrontEnd(std::string path, GuestRam& ram,
                    const VirtioDeviceKind& kind,
                    const VhostUserDeviceOptions& options);

  // Errors as VhostUserDevice::Connect. REQUIRES: not connected.
  absl::Status Start() ABSL_LOCKS_EXCLUDED(connection_.mutex());

  absl::Status Reconnect() override ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void Abandon() override ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status connection() const override { return connection_.link_status(); }
  pid_t vmm_pid() const override { return connection_.pid(); }

  uint32_t device_id() const override { return kind_.device_id; }
  uint64_t DeviceFeatures() const override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status SetDriverFeatures(uint64_t features) override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  uint8_t status() const override ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void SetStatus(uint8_t status) override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  uint32_t ConfigGeneration() const override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  uint16_t MaxQueueSize(uint16_t index) const override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void SetConfigNotifier(Notifier& config) override
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

 private:
  using Link = VhostUserConnection::Link;

  struct Queue {
    EventFdNotifier kick;
    // The driver's, while the queue is set up.
    UniqueFd call;
    Notifier* used = nullptr;
  };

  // VhostUserConnection::Listener.
  void OnLost() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void OnProcessEnded() override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void OnDone(VhostUserRequest request) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void OnConfigChange() override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  std::vector<int> CallFds() const override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void OnCall(size_t index) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());

  // Queries a VMM that just connected, and shares RAM with it.
  absl::Status Introduce(const VhostUserConnection::Offer& offer)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

  // The last known status, with NEEDS_RESET if the connection is not up.
  uint8_t LastStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void Reset() ABSL_LOCKS_EXCLUDED(connection_.mutex());
  // From here on the VMM touches no memory, and no notifier is called.
  void CompleteReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());

  // Determines the size of the configuration: asks for each size in
  // kind_.config_sizes until the device has one. 0 if it has none of them.
  void FindConfig(bool has_config) ABSL_LOCKS_EXCLUDED(connection_.mutex());
  // Reads all of the configuration, unless the cached one is current or there
  // is no connection: a device notifies the driver of its own changes (virtio
  // 1.3 §2.5). False if the device's configuration is shorter.
  bool FetchConfig() const ABSL_LOCKS_EXCLUDED(connection_.mutex());

  const VirtioDeviceKind kind_;
  const VhostUserDeviceOptions options_;

  // Signalled when a reset has completed.
  mutable std::condition_variable_any reset_done_;
  bool abandoned_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  uint64_t features_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // As last read, plus bits set since and not yet read back.
  mutable uint8_t status_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // True if DRIVER_OK was or may have been set since the last reset. Before it
  // the driver does not kick, and the VMM touches no memory (virtio 1.3
  // §3.1.1), even if the connection is lost.
  bool is_started_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  // A reset was requested and is not complete.
  bool resetting_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  std::chrono::steady_clock::time_point reset_deadline_
      ABSL_GUARDED_BY(connection_.mutex());

  // As last read; initially zeroes.
  mutable std::vector<std::byte> config_ ABSL_GUARDED_BY(connection_.mutex());
  mutable bool config_is_current_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  mutable uint32_t generation_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  Notifier* config_notifier_ ABSL_GUARDED_BY(connection_.mutex()) = nullptr;

  uint16_t queue_count_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // Never shrinks, even if a later VMM has fewer queues: kicks live as long as
  // the device.
  std::vector<std::unique_ptr<Queue>> queues_
      ABSL_GUARDED_BY(connection_.mutex());

  // Declared after the state that its thread uses. Mutable: a const method may
  // have to ask the VMM.
  mutable VhostUserConnection connection_;
  VhostUserSharedRam shared_ram_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_FRONT_END_H_
