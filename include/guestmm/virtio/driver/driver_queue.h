#ifndef GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_
#define GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

struct DriverQueueOptions {
  VirtqueueFeatures features = {};
  // Used if features.indirect. The memory is the driver's, written by
  // DriverQueue alone, and given in guest RAM like the queue's own.
  IndirectTables tables = {};
  // The first chain goes to slot `start` modulo the size.
  uint16_t start = 0;
};

// The driver half of a split virtqueue: offers chains, takes them back.
//
//   queue.Add({}, buffers, token);
//   if (queue.NeedsKick()) kick.Notify();
//   ...
//   while (auto used = *queue.GetUsed()) Done(used->token);
//
// With the event index the device is asked to notify of the next chain that
// GetUsed has not returned. So who is notified takes chains until there is
// none: of those that are there already no notification follows.
//
// It trusts nothing that the device can write, nor its own table once it is
// written: which descriptors are free and which chains are out is kept in
// private memory. Not locked: one caller at a time.
class DriverQueue {
 public:
  // A chain that the device gave back.
  struct Used {
    uint64_t token;          // as given to Add
    uint32_t bytes_written;  // what the device says it wrote
  };

  // Clears the memory of the queue. Errors as VirtqueueMemory::Map; and
  // InvalidArgument if a table has not 2 to size() entries, there are more of
  // them than size(), or they are not aligned as the queue's own table, or do
  // not lie within one region. `ram` must outlive this.
  static absl::StatusOr<DriverQueue> Create(
      const GuestRam& ram, const VirtqueueLayout& layout,
      const DriverQueueOptions& options = {});

  // Offers a chain: `readable` for the device to read, then `writable` for it
  // to write (§2.7.4.2, §2.7.13). A chain of more than one buffer goes to an
  // indirect table, if one is free that it fits; it then takes one descriptor.
  // ResourceExhausted if too few descriptors are free now; InvalidArgument if
  // the chain never fits: no buffer, more than size() of them (with a table
  // too: §2.7.5.3.1), a buffer that is empty or 4 GiB or more, or more than
  // 4 GiB in all (§2.7.5.2). On error nothing is offered.
  absl::Status Add(std::span<const GpaRange> readable,
                   std::span<const GpaRange> writable, uint64_t token);

  // Whether the device wants to be notified (§2.7.10); with the event index, of
  // a chain that was added since this was last asked.
  bool NeedsKick();

  // The next chain that the device gave back; none if there is none. DataLoss
  // if the used ring cannot be: its index jumped, it names a chain that is not
  // out, or more bytes than the chain takes. The queue is then unusable, and
  // the same error is returned from there on.
  absl::StatusOr<std::optional<Used>> GetUsed();

  // Asks the device not to notify of used chains: a hint, it may still.
  void DisableNotifications();
  // Asks for notifications again. True if chains came back meanwhile, for which
  // no notification may follow: call GetUsed.
  bool EnableNotifications();

  uint16_t size() const { return memory_.size(); }
  uint16_t free_descriptors() const { return free_count_; }
  uint16_t free_tables() const {
    return static_cast<uint16_t>(free_tables_.size());
  }
  // Chains that the device has.
  uint16_t outstanding() const {
    return static_cast<uint16_t>(next_available_ - next_used_);
  }

  // Internal if an invariant of the private state does not hold: every
  // descriptor is free or in one outstanding chain, and so is every table;
  // outstanding() chains, at most size() of them. Says nothing about what the
  // device wrote.
  absl::Status CheckInvariants() const;

 private:
  // More than there can be tables.
  static constexpr uint16_t kNoTable = 0xffff;

  // Private state of descriptor i.
  struct Slot {
    uint16_t next = 0;          // in the free list, or in its chain
    uint16_t chain_length = 0;  // of the chain with head i; 0: no such chain
    uint16_t table = kNoTable;  // that the chain with head i is in
    uint64_t writable_bytes = 0;
    uint64_t token = 0;
  };

  DriverQueue(VirtqueueMemory memory, const DriverQueueOptions& options,
              std::optional<Translation> tables);

  // Write the chain, of `count` descriptors that `describe` makes, but for
  // `next`, to the queue's own table or to an indirect one. From free_head_ on.
  template <typename Describe>
  void WriteChain(size_t count, const Describe& describe);
  template <typename Describe>
  void WriteTable(size_t count, const Describe& describe);
  absl::Status CheckTables() const;
  absl::Status Break(absl::Status status);

  VirtqueueMemory memory_;
  bool event_index_;
  // Whether GetUsed moves used_event along: with the event index, unless
  // notifications are off.
  bool moves_event_;
  // No table if the feature was not negotiated; pinned where they are.
  IndirectTables tables_;
  std::optional<Translation> tables_memory_;
  std::vector<uint16_t> free_tables_;
  std::vector<Slot> slots_;
  uint16_t free_head_ = 0;
  uint16_t free_count_;
  // Free-running, as the idx of the rings: where the next chain goes, and where
  // the next used one is read.
  uint16_t next_available_;
  uint16_t next_used_;
  // Chains added since NeedsKick. Counted, not told from the index, which may
  // have gone all the way round.
  uint64_t unasked_ = 0;
  // Not OK once the used ring was found broken.
  absl::Status broken_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_
