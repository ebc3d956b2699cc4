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
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/notifier.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "src/virtio/vhost_user/back_end/regions.h"
#include "src/virtio/vhost_user/back_end/rings.h"

namespace guestmm {

// Discards, and counts in how many batches.
class CountingHypervisor final : public Hypervisor {
 public:
  explicit CountingHypervisor(const GuestRam& ram) : next_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    absl::Status status = next_.Discard(ranges);
    batches_.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  DiscardCounters counters() const override { return next_.counters(); }
  uint64_t batches() const { return batches_.load(std::memory_order_relaxed); }

 private:
  DiscardingHypervisor next_;
  std::atomic<uint64_t> batches_{0};
};

// Tells the front end, by its backend channel, to look at configuration and
// status again. What it does not read is dropped: it has been told then.
class ConfigChangeNotifier final : public Notifier {
 public:
  void Set(UniqueFd socket);
  void Notify() override;

 private:
  mutable SpinLock lock_;
  std::shared_ptr<const VhostUserChannel> channel_ ABSL_GUARDED_BY(lock_);
};

// One guest's connection to a VhostUserServer, with a device of its own: takes
// messages apart, and answers them. What they say of memory goes to
// VhostUserRegions, what of queues to VhostUserRings.
class VhostUserSession {
 public:
  // Unavailable if this process has no more memory or file descriptors for it.
  static absl::StatusOr<std::unique_ptr<VhostUserSession>> Create(
      UniqueFd connection, const VhostUserServer::MakeDevice& make_device,
      const VhostUserServerOptions& options);

  // Resets the device.
  ~VhostUserSession();

  // Serves until the guest leaves, breaks a rule of the wire, or Stop. Why.
  absl::Status Run();
  // From any thread; also before Run.
  void Stop();

  // Resets the device: from here on counters() stay as they are. After Run.
  void Finish() { rings_->Reset(); }

  VhostUserCounters counters() const;

 private:
  using Reply = std::optional<std::vector<std::byte>>;

  VhostUserSession(UniqueFd connection, const VhostUserServerOptions& options);
  absl::Status Start(const VhostUserServer::MakeDevice& make_device);

  // One message, if a whole one is on the socket now.
  absl::Status HandleMessages();
  absl::Status HandleMessage(VhostUserMessage& message);
  // What the front end waits for, if its request has an answer of its own.
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
  std::unique_ptr<CountingHypervisor> hypervisor_;
  std::unique_ptr<ThreadWorkqueue> workqueue_;
  std::unique_ptr<VhostUserRings> rings_;
  ConfigChangeNotifier config_change_;
  // After all that it uses.
  std::unique_ptr<VirtioDevice> device_;

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> messages_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_BACK_END_SESSION_H_
