#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "src/virtio/vhost_user/back_end/regions.h"
#include "src/virtio/vhost_user/back_end/rings.h"

namespace guestmm {

// Asks the front end, on its back-end channel, to read configuration and status
// again. A message that does not fit into the socket is dropped: one that was
// not read yet says the same.
class ConfigChangeNotifier final : public Notifier {
 public:
  // Once, before Notify. If `device` needs a reset, `rings` are notified of the
  // error. Both must outlive the last call.
  void SetDevice(const VirtioDevice& device, VhostUserRings& rings) {
    device_ = &device;
    rings_ = &rings;
  }
  void Set(UniqueFd socket);
  void Notify() override;

 private:
  const VirtioDevice* device_ = nullptr;
  VhostUserRings* rings_ = nullptr;
  mutable SpinLock lock_;
  std::shared_ptr<const VhostUserChannel> channel_ ABSL_GUARDED_BY(lock_);
};

// One guest's connection to a VhostUserServer, and its device: handles messages
// and replies to them. VhostUserRegions handles those about memory,
// VhostUserRings those about queues.
class VhostUserSession {
 public:
  // Makes the device; called once, by Create. Must not return null (CHECKed).
  using MakeDevice = absl::FunctionRef<std::shared_ptr<VirtioDevice>(
      const GuestRam& ram, Workqueue& workqueue)>;

  // Unavailable if this process has no memory or file descriptors left for it.
  // `options` must outlive this.
  static absl::StatusOr<std::unique_ptr<VhostUserSession>> Create(
      UniqueFd connection, MakeDevice make_device,
      const VhostUserServerOptions& options);

  // Resets the device.
  ~VhostUserSession();

  // Serves until the guest disconnects, violates the protocol, or Stop is
  // called. Returns the reason.
  absl::Status Run();
  // Thread-safe; may also be called before Run.
  void Stop();

  // Resets the device: counters() no longer change. Call it after Run.
  void Finish() { rings_->Reset(); }

  VhostUserCounters counters() const;

 private:
  using Reply = std::optional<std::vector<std::byte>>;

  VhostUserSession(UniqueFd connection, const VhostUserServerOptions& options);
  absl::Status Start(MakeDevice make_device);

  // Handles one message, if it has arrived in full.
  absl::Status HandleMessages();
  absl::Status HandleMessage(VhostUserMessage& message);
  // The reply, if this request has a reply of its own.
  absl::StatusOr<Reply> Dispatch(VhostUserMessage& message);

  absl::Status SetFeatures(uint64_t features);
  absl::Status SetProtocolFeatures(uint64_t features);
  absl::Status SetStatus(uint64_t status);
  absl::Status SetBackendReqFd(VhostUserMessage& message);
  absl::StatusOr<Reply> GetConfig(const VhostUserMessage& message);
  absl::Status SetConfig(const VhostUserMessage& message);

  absl::Status SetMemTable(const VhostUserMessage& message);

  const VhostUserServerOptions& options_;
  VhostUserChannel channel_;
  WakeFd wake_;
  UniqueFd poller_;
  uint64_t protocol_features_ = 0;

  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<VhostUserRegions> regions_;
  std::unique_ptr<ThreadWorkqueue> workqueue_;
  std::unique_ptr<VhostUserRings> rings_;
  ConfigChangeNotifier config_change_;
  // Declared after everything it uses.
  std::shared_ptr<VirtioDevice> device_;

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> messages_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_
