#ifndef GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_
#define GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

// What is wrong with an indirect table, or with the descriptor that names it
// (§2.7.5.3).
enum class TableFault : uint8_t {
  kNone,
  kSize,           // no descriptor, or a part of one
  kOutsideRam,     // not within one region of guest RAM
  kGoesOn,         // INDIRECT with NEXT
  kNested,         // INDIRECT in the table
  kNextPastTable,  // an entry goes on past the end
  kTooLong,        // it makes the chain longer than the queue; or it loops
};
inline constexpr size_t kTableFaults = 7;

// A chain as the device took it: the device's own copy, read once, which a
// guest that goes on writing cannot change. Its addresses are the guest's
// claims: check them against guest RAM before use.
struct DescriptorChain {
  uint16_t head;
  // If not kNone, the chain ended in an indirect table of which nothing is
  // among `descriptors`: they are what came before it, and may be none.
  TableFault table_fault = TableFault::kNone;
  // In the chain's order, those of its indirect table among them; at most the
  // queue's size. Valid until the next Pop. Without INDIRECT_DESC, at least
  // one, and what INDIRECT means in one is the caller's to say; with it there
  // is none that has the flag.
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
// With the event index the driver is asked to kick for the next chain that Pop
// has not returned. So who is kicked takes chains until there is none.
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
                                            VirtqueueFeatures features = {},
                                            uint16_t start = 0);

  // The next available chain; none if there is none. DataLoss if the ring is
  // broken, so that no chain can be told from it nor acknowledged:
  //  - the available index jumped: back, or ahead by more than the chains that
  //    the driver can have made available;
  //  - a head, or a descriptor's next, is past the table;
  //  - a head is that of a chain which was not given back yet;
  //  - a chain loops, which shows in its being longer than the queue.
  // The same error is returned from there on. A bad indirect table breaks
  // nothing, since the head is known and can be given back: see table_fault.
  absl::StatusOr<std::optional<DescriptorChain>> Pop();

  // Gives a chain back. Chains may be given back in any order.
  // REQUIRES: Pop returned `head` and it was not pushed since (CHECKed).
  void Push(uint16_t head, uint32_t bytes_written);

  // Whether the driver wants to be notified (§2.7.7); with the event index, of
  // a chain that was pushed since this was last asked.
  bool NeedsNotification();

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
  DeviceQueue(const GuestRam& ram, VirtqueueMemory memory,
              VirtqueueFeatures features, uint16_t start);

  // Puts what the table holds that `descriptor` names behind chain_; on a
  // fault, nothing.
  TableFault ReadTable(const VirtqDesc& descriptor);
  absl::Status Break(absl::Status status);

  const GuestRam* ram_;
  VirtqueueMemory memory_;
  // kVirtqDescIndirect if it was negotiated, else 0.
  uint16_t indirect_flag_;
  bool event_index_;
  // Whether Pop moves avail_event along: with the event index, unless
  // notifications are off.
  bool moves_event_;
  // The chain that Pop returned last. Never longer than size().
  std::vector<VirtqDesc> chain_;
  // By head: popped and not pushed.
  std::vector<bool> is_out_;
  // Free-running, as the idx of the rings: where the next chain is read, and
  // where the next one given back goes.
  uint16_t next_available_;
  uint16_t next_used_;
  // Chains pushed since NeedsNotification. Counted, not told from the index,
  // which may have gone all the way round.
  uint64_t unasked_ = 0;
  // Not OK once the ring was found broken.
  absl::Status broken_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DEVICE_DEVICE_QUEUE_H_
