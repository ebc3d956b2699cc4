#ifndef GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_
#define GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

// A fault of an indirect table, or of the descriptor that refers to it
// (§2.7.5.3).
enum class TableFault : uint8_t {
  kNone,
  kSize,           // empty, or not whole descriptors
  kOutsideRam,     // not within one region of guest RAM
  kGoesOn,         // INDIRECT with NEXT
  kNested,         // INDIRECT in the table
  kNextPastTable,  // an entry's `next` is past the end
  kTooLong,        // the chain exceeds the queue size, or loops
};
inline constexpr size_t kTableFaults = 7;

// A chain taken from the available ring. The descriptors are the device's copy,
// read once, which the guest cannot change. Their addresses are untrusted:
// check them against guest RAM before use.
struct DescriptorChain {
  uint16_t head;
  // If not kNone, the chain ended in a bad indirect table. `descriptors` then
  // has only the descriptors before the table, possibly none.
  TableFault table_fault = TableFault::kNone;
  // In chain order, including those of the indirect table; at most the queue
  // size. Valid until the next Pop. If INDIRECT_DESC was negotiated, none has
  // the flag INDIRECT; else there is at least one, and handling INDIRECT is up
  // to the caller.
  std::span<const VirtqDesc> descriptors;
};

// The device side of a split virtqueue: takes chains and returns them.
//
//   while (auto chain = *queue.Pop()) {
//     ...
//     queue.Push(chain->head, bytes_written);
//     if (queue.NeedsNotification()) used.Notify();
//   }
//
// With the event index the driver kicks for the first chain that Pop has not
// yet returned. So after a kick, the caller must call Pop until there is none.
//
// The guest may write anything at any time. No loop or allocation here exceeds
// the queue size, which was checked at set-up. Not thread-safe.
class DeviceQueue {
 public:
  // Errors as VirtqueueMemory::Map. The first chain is taken from slot `start`
  // modulo the queue size. `ram` must outlive the result.
  static absl::StatusOr<DeviceQueue> Create(const GuestRam& ram,
                                            const VirtqueueLayout& layout,
                                            VirtqueueFeatures features = {},
                                            uint16_t start = 0);

  // The next available chain; nullopt if there is none. DataLoss if the ring is
  // broken, so that the chain can neither be read nor acknowledged:
  //  - the available index moved back, or ahead by more chains than the
  //    driver can have made available;
  //  - a head, or a descriptor's `next`, is past the end of the table;
  //  - a head is that of a chain that was not returned yet;
  //  - a chain is longer than the queue, so it loops.
  // Later calls return the same error. A bad indirect table does not break the
  // ring, since the head is known and can be returned: see table_fault.
  absl::StatusOr<std::optional<DescriptorChain>> Pop();

  // True if the driver has made chains available since the last Pop.
  bool HasMore() const {
    // Pop orders what follows.
    return memory_.available_idx().load(std::memory_order_relaxed) !=
           next_available_;
  }

  // Returns a chain to the driver, in any order. REQUIRES: Pop returned `head`,
  // and it was not pushed since (CHECKed).
  void Push(uint16_t head, uint32_t bytes_written);

  // True if the driver wants a notification (§2.7.7). With the event index: for
  // any chain pushed since the last call.
  bool NeedsNotification();

  // Asks the driver not to kick. This is a hint: the driver may still kick.
  void DisableNotifications();
  // Asks the driver to kick again. True if chains became available in the
  // meantime, for which there may be no kick: call Pop.
  bool EnableNotifications();

  uint16_t size() const { return memory_.size(); }
  // The used index: the entry of the first chain that was not pushed, if they
  // were pushed in order.
  uint16_t next_used() const { return next_used_; }
  // The number of chains popped and not yet pushed.
  uint16_t outstanding() const {
    return static_cast<uint16_t>(next_available_ - next_used_);
  }

  // Internal if an invariant of the private state is violated: the outstanding
  // chains are those between the two indexes, at most size(). Does not check
  // what the guest wrote.
  absl::Status CheckInvariants() const;

 private:
  DeviceQueue(const GuestRam& ram, VirtqueueMemory memory,
              VirtqueueFeatures features, uint16_t start);

  // Appends the table that `descriptor` refers to to chain_; appends nothing on
  // a fault.
  TableFault ReadTable(const VirtqDesc& descriptor);
  absl::Status Break(absl::Status status);

  const GuestRam* ram_;
  VirtqueueMemory memory_;
  // kVirtqDescIndirect if it was negotiated, else 0.
  uint16_t indirect_flag_;
  bool event_index_;
  // True if Pop advances avail_event: with the event index, unless
  // notifications are off.
  bool moves_event_;
  // The chain last returned by Pop, at most size() descriptors.
  std::vector<VirtqDesc> chain_;
  // By head: whether the chain was popped and not yet pushed.
  std::vector<bool> is_out_;
  // Free-running, as the rings' idx: the next entry to read, and the next to
  // write.
  uint16_t next_available_;
  uint16_t next_used_;
  // Chains pushed since the last NeedsNotification. Counted, since the index
  // may have wrapped around.
  uint64_t unasked_ = 0;
  // The error of a broken ring; else OK.
  absl::Status broken_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_
