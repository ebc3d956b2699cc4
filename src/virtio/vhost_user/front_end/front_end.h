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

// The device as it is known on this side of the connection: status and resets,
// configuration, queues. Its methods are those of VhostUserDevice, which tells
// what they do. All state is under the connection's lock.
class VhostUserDevice::FrontEnd final : private VhostUserConnection::Listener {
 public:
  FrontEnd(std::string path, GuestRam& ram,
           const VhostUserDeviceOptions& options);

  absl::Status Connect() ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status Reconnect() ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void Abandon() ABSL_LOCKS_EXCLUDED(connection_.mutex());

  absl::Status connection() const { return connection_.link_status(); }
  pid_t vmm_pid() const { return connection_.pid(); }
  uint32_t device_id() const { return options_.device_id; }
  uint64_t features() const ABSL_LOCKS_EXCLUDED(connection_.mutex());
  uint16_t MaxQueueSize(uint16_t index) const
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status SetDriverFeatures(uint64_t features)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

  uint8_t Status() ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void SetStatus(uint8_t status) ABSL_LOCKS_EXCLUDED(connection_.mutex());

  uint32_t ConfigGeneration() const ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status ReadConfig(uint32_t offset, std::span<std::byte> bytes)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  absl::Status WriteConfig(uint32_t offset, std::span<const std::byte> bytes)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());
  void SetConfigNotifier(Notifier& config)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

 private:
  using Link = VhostUserConnection::Link;

  struct Queue {
    EventFdNotifier kick;
    // Of the queue as it is set up now.
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

  // What is to be known of a VMM that just connected, and shares RAM with it.
  absl::Status Introduce(const VhostUserConnection::Offer& offer)
      ABSL_LOCKS_EXCLUDED(connection_.mutex());

  // The status, as far as it can be known, of which the VMM was not asked.
  uint8_t LostStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());
  void Reset() ABSL_LOCKS_EXCLUDED(connection_.mutex());
  // From here on the VMM touches nothing, and no one is notified.
  void CompleteReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(connection_.mutex());

  // Finds out how large the configuration is.
  void FindConfig(bool has_config) ABSL_LOCKS_EXCLUDED(connection_.mutex());
  // Reads all of it, if what is known may not be current and as far as there is
  // a connection: a device tells of what it changes itself (virtio 1.3 §2.5).
  // False if the device does not have as much.
  bool FetchConfig() ABSL_LOCKS_EXCLUDED(connection_.mutex());

  const VhostUserDeviceOptions options_;

  // A reset completed.
  std::condition_variable_any reset_done_;
  bool abandoned_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  uint64_t features_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // As last read; bits that were set and not seen refused.
  uint8_t status_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // DRIVER_OK was set since the last reset, or may have been: without it the
  // VMM touches nothing (virtio 1.3 §3.1.1), whatever became of the connection.
  bool is_started_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  // A reset was asked for and is not complete.
  bool resetting_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  std::chrono::steady_clock::time_point reset_deadline_
      ABSL_GUARDED_BY(connection_.mutex());

  // What it was when last read; of zeros before that.
  std::vector<std::byte> config_ ABSL_GUARDED_BY(connection_.mutex());
  bool config_is_current_ ABSL_GUARDED_BY(connection_.mutex()) = false;
  uint32_t generation_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  Notifier* config_notifier_ ABSL_GUARDED_BY(connection_.mutex()) = nullptr;

  uint16_t queue_count_ ABSL_GUARDED_BY(connection_.mutex()) = 0;
  // Those that any VMM had: kicks live as long as the device.
  std::vector<std::unique_ptr<Queue>> queues_
      ABSL_GUARDED_BY(connection_.mutex());

  // Behind what its thread uses.
  VhostUserConnection connection_;
  VhostUserSharedRam shared_ram_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_FRONT_END_FRONT_END_H_
