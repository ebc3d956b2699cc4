#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_SESSION_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_SESSION_H_

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
#include "guestmm/hypervisor/discarding_hypervisor.h"
#include "guestmm/hypervisor/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/event_fd_notifier.h"
#include "guestmm/virtio/notifier.h"
#include "guestmm/virtio/vhost_user.h"
#include "guestmm/virtio/vhost_user_server.h"
#include "guestmm/virtio/virtio_device.h"
#include "guestmm/virtio/virtqueue.h"

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

// One guest's connection to a VhostUserServer: its memory, its device, and what
// it said of the queues.
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
  void Finish() { Reset(); }

  VhostUserCounters counters() const;

 private:
  // A queue as the front end told of it so far.
  struct Ring {
    uint16_t size = 0;
    std::optional<VhostUserVringAddr> addresses;
    UniqueFd kick_fd;
    EventFdNotifier call;
    // The device's, once the queue is set up.
    Notifier* kick = nullptr;
  };
  using Reply = std::optional<std::vector<std::byte>>;

  VhostUserSession(UniqueFd connection, const VhostUserServerOptions& options);
  absl::Status Start(const VhostUserServer::MakeDevice& make_device);

  // Everything that is on the socket now.
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
  absl::Status AddRegion(const VhostUserRegion& region, int fd);
  absl::Status RemoveRegion(const VhostUserRegion& region);
  // Where guest RAM has an address of the front end.
  absl::StatusOr<Gpa> Translate(uint64_t userspace_addr) const;

  absl::StatusOr<Ring*> FindRing(uint64_t index);
  absl::Status SetVringNum(const VhostUserVringState& state);
  absl::Status SetVringAddr(const VhostUserVringAddr& addresses);
  absl::Status SetVringBase(const VhostUserVringState& state);
  absl::StatusOr<uint16_t> GetVringBase(const VhostUserVringState& state);
  absl::Status SetVringEnable(const VhostUserVringState& state);
  absl::Status SetVringKick(VhostUserMessage& message);
  absl::Status SetVringCall(VhostUserMessage& message);
  // The queue's index in `message`, and its eventfd, none if it says so.
  absl::StatusOr<std::pair<uint64_t, UniqueFd>> TakeVringFd(
      VhostUserMessage& message);

  bool IsSetUp() const;
  // Of the device; the queues are forgotten.
  void Reset();

  const VhostUserServerOptions& options_;
  VhostUserChannel channel_;
  UniqueFd wake_;
  UniqueFd poller_;
  uint64_t protocol_features_ = 0;
  // As they were given, by the order of arrival.
  std::vector<VhostUserRegion> regions_;
  uint64_t guest_bytes_ = 0;

  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<CountingHypervisor> hypervisor_;
  std::unique_ptr<ThreadWorkqueue> workqueue_;
  std::vector<Ring> rings_;
  ConfigChangeNotifier config_change_;
  // After all that it uses.
  std::unique_ptr<VirtioDevice> device_;

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> messages_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_SESSION_H_
