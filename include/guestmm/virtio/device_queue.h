#ifndef GUESTMM_VIRTIO_DEVICE_QUEUE_H_
#define GUESTMM_VIRTIO_DEVICE_QUEUE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/virtqueue.h"

namespace guestmm {

// A chain as the device took it: the device's own copy, read once, which a
// guest that goes on writing cannot change. Its addresses are the guest's
// claims: check them against guest RAM before use.
struct DescriptorChain {
  uint16_t head;
  // In the chain's order; at least one, at most the queue's size. Valid until
  // the next Pop.
  std::span<const VirtqDesc> descriptors;
};

// The device half of a split virtqueue: takes chains, gives them back.
//
//   while (auto chain = *queue.Pop()) {
//     ...
//     queue.Push(chain->head, bytes_written);
//     if (queue.NeedsNotification()) used.Notify();
//   }
//
// The guest may write anything at any time. No loop and no allocation here is
// longer than the queue, whose size was checked at set-up. Not locked: one
// caller at a time.
class DeviceQueue {
 public:
  // Errors as VirtqueueMemory::Map. The next chain is taken from slot `start`
  // modulo the size. `ram` must outlive this.
  static absl::StatusOr<DeviceQueue> Create(const GuestRam& ram,
                                            const VirtqueueLayout& layout,
                                            uint16_t start = 0);

  // The next available chain; none if there is none. DataLoss if the ring is
  // broken, so that no chain can be told from it nor acknowledged:
  //  - the available index jumped: back, or ahead by more than the chains that
  //    the driver can have made available;
  //  - a head, or a descriptor's next, is past the table;
  //  - a head is that of a chain which was not given back yet;
  //  - a chain loops, which shows in its being longer than the queue.
  // The same error is returned from there on.
  absl::StatusOr<std::optional<DescriptorChain>> Pop();

  // Gives a chain back. Chains may be given back in any order.
  // REQUIRES: Pop returned `head` and it was not pushed since (CHECKed).
  void Push(uint16_t head, uint32_t bytes_written);

  // After Push: whether the driver wants to be notified (§2.7.7).
  bool NeedsNotification() const;

  // Asks the driver not to kick: a hint, it may still.
  void DisableNotifications();
  // Asks for kicks again. True if chains came meanwhile, for which no kick may
  // follow: call Pop.
  bool EnableNotifications();

  uint16_t size() const { return memory_.size(); }
  // Chains popped and not pushed.
  uint16_t outstanding() const {
    return static_cast<uint16_t>(next_available_ - next_used_);
  }

  // Internal if an invariant of the private state does not hold: the chains out
  // are those between the two indexes, at most size(). Says nothing about what
  // the guest wrote.
  absl::Status CheckInvariants() const;

 private:
  DeviceQueue(VirtqueueMemory memory, uint16_t start);

  absl::Status Break(absl::Status status);

  VirtqueueMemory memory_;
  // The chain that Pop returned last. Never longer than size().
  std::vector<VirtqDesc> chain_;
  // By head: popped and not pushed.
  std::vector<bool> is_out_;
  // Free-running, as the idx of the rings: where the next chain is read, and
  // where the next one given back goes.
  uint16_t next_available_;
  uint16_t next_used_;
  // Not OK once the ring was found broken.
  absl::Status broken_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_QUEUE_H_
