#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
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
#include "src/virtio/vhost_user/back_end/memory_budget.h"
#include "src/virtio/vhost_user/back_end/regions.h"
#include "src/virtio/vhost_user/back_end/rings.h"

namespace guestmm {

// Asks the front end, on its back-end channel, to read configuration and status
// again. A message that does not fit into the socket is dropped: one that was
// not read yet says the same.
class ConfigChangeNotifier final : public Notifier {
 public:
  // Calls `on_change` before each message.
  explicit ConfigChangeNotifier(std::function<void()> on_change)
      : on_change_(std::move(on_change)) {}
  void Set(UniqueFd socket);
  void Notify() override;

 private:
  const std::function<void()> on_change_;
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
  // `options` and `budget` must outlive this.
  static absl::StatusOr<std::unique_ptr<VhostUserSession>> Create(
      UniqueFd connection, const VhostUserSessionInfo& info,
      MakeDevice make_device, const VhostUserServerOptions& options,
      MemoryBudget& budget);

  // Resets the device.
  ~VhostUserSession();

  // Serves until the guest disconnects, violates the protocol, or Stop is
  // called. Returns the reason. With a timeout, also returns, OK, once nothing
  // has happened for that many milliseconds: to serve on the caller's thread.
  absl::Status Run(int timeout_ms = -1);
  // Thread-safe; may also be called before Run.
  void Stop();

  // Resets the device: counters() no longer change. Call it after Run.
  void Finish() { rings_->Reset(); }

  VhostUserCounters counters() const;

 private:
  using Reply = std::optional<std::vector<std::byte>>;

  VhostUserSession(UniqueFd connection, uint64_t id,
                   const VhostUserServerOptions& options);
  absl::Status Start(MakeDevice make_device, MemoryBudget& budget, uid_t uid);
  // Adds `fd` to the poller.
  absl::Status Poll(int fd, uint64_t event);

  // Handles one message, if it has arrived in full.
  absl::Status HandleMessages();
  absl::Status HandleMessage(VhostUserMessage& message);
  // Counts a refusal, and tells the server's owner. Thread-safe.
  void Refuse(const std::string& request, const absl::Status& why);
  // The configuration or the status has changed.
  void ConfigChanged();
  // The reply, if this request has a reply of its own.
  absl::StatusOr<Reply> Dispatch(VhostUserMessage& message);

  absl::Status SetFeatures(uint64_t features);
  absl::Status SetProtocolFeatures(uint64_t features);
  absl::Status SetStatus(uint64_t status);
  absl::Status SetBackendReqFd(VhostUserMessage& message);
  absl::StatusOr<Reply> GetConfig(const VhostUserMessage& message);
  absl::Status SetConfig(const VhostUserMessage& message);

  absl::Status SetMemTable(const VhostUserMessage& message);
  absl::Status AddMemReg(const VhostUserMessage& message);
  absl::Status RemMemReg(const VhostUserMessage& message);

  const uint64_t id_;
  const VhostUserServerOptions& options_;
  VhostUserChannel channel_;
  WakeFd wake_;
  UniqueFd poller_;
  // Readable when the time for the first message is over; closed after that
  // message.
  UniqueFd handshake_timer_;
  uint64_t protocol_features_ = 0;

  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<VhostUserRegions> regions_;
  std::unique_ptr<ThreadWorkqueue> workqueue_;
  std::unique_ptr<VhostUserRings> rings_;
  ConfigChangeNotifier config_change_{[this] { ConfigChanged(); }};
  // Declared after everything it uses.
  std::shared_ptr<VirtioDevice> device_;

  std::atomic<bool> stop_{false};

  mutable Mutex counting_;
  VhostUserCounters counters_ ABSL_GUARDED_BY(counting_);
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_
