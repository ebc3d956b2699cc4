#ifndef GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_
#define GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace GUESTMM_EXPORT guestmm {

struct DriverQueueOptions {
  VirtqueueFeatures features = {};
  // Used if features.indirect. Like the queue itself, this is the driver's
  // memory in guest RAM, written by DriverQueue alone.
  IndirectTables tables = {};
  // The first chain goes into slot `start` modulo the queue size.
  uint16_t start = 0;
};

// The driver side of a split virtqueue: offers chains to the device and takes
// them back.
//
//   queue.Add({}, buffers, token);
//   if (queue.NeedsKick()) kick.Notify();
//   ...
//   while (auto used = *queue.GetUsed()) Done(used->token);
//
// With the event index the device sends a notification for the first chain that
// GetUsed has not yet returned. So after a notification, the caller must call
// GetUsed until there is none: no notification follows for chains that are
// already there.
//
// Nothing that the device can write is trusted, nor the descriptor table after
// it was written: which descriptors are free and which chains are outstanding
// is kept in private memory. Not thread-safe.
class DriverQueue {
 public:
  // A chain that the device returned.
  struct Used {
    uint64_t token;          // as passed to Add
    uint32_t bytes_written;  // according to the device
  };

  // Clears the memory of the queue. Errors as VirtqueueMemory::Map; also
  // InvalidArgument if a table has fewer than 2 or more than size() entries, or
  // there are more than size() tables, or they are not aligned like the
  // descriptor table, or not within one region. `ram` must outlive the result.
  static absl::StatusOr<DriverQueue> Create(
      const GuestRam& ram, const VirtqueueLayout& layout,
      const DriverQueueOptions& options = {});

  // Offers a chain: buffers for the device to read, then buffers for it to
  // write (§2.7.4.2, §2.7.13). A chain of more than one buffer goes into an
  // indirect table, if a table is free and large enough, and then takes one
  // descriptor. ResourceExhausted if there are too few free descriptors now.
  // InvalidArgument if the chain can never be offered: it has no buffer, more
  // than size() buffers (even in a table: §2.7.5.3.1), a buffer that is empty
  // or 4 GiB or larger, or more than 4 GiB in total (§2.7.5.2). Offers nothing
  // on error.
  absl::Status Add(std::span<const GpaRange> readable,
                   std::span<const GpaRange> writable, uint64_t token);

  // True if the device wants a notification (§2.7.10). With the event index:
  // for any chain added since the last call.
  bool NeedsKick();

  // The next chain that the device returned; nullopt if there is none. DataLoss
  // if the used ring is broken: its index jumped, or it names a chain that is
  // not outstanding, or more bytes than the chain has. The queue is then
  // unusable, and later calls return the same error.
  absl::StatusOr<std::optional<Used>> GetUsed();

  // Asks the device not to notify of used chains. This is a hint: it may still
  // notify.
  void DisableNotifications();
  // Asks the device to notify again. True if chains were returned in the
  // meantime, for which there may be no notification: call GetUsed.
  bool EnableNotifications();

  uint16_t size() const { return memory_.size(); }
  uint16_t free_descriptors() const { return free_count_; }
  uint16_t free_tables() const {
    return static_cast<uint16_t>(free_tables_.size());
  }
  // The number of chains that the device has.
  uint16_t outstanding() const {
    return static_cast<uint16_t>(next_available_ - next_used_);
  }

  // Internal if an invariant of the private state is violated: each descriptor
  // and each table is either free or in exactly one outstanding chain; there
  // are outstanding() chains, at most size(). Does not check what the device
  // wrote.
  absl::Status CheckInvariants() const;

 private:
  // Larger than any table number.
  static constexpr uint16_t kNoTable = 0xffff;

  // The private state of descriptor i.
  struct Slot {
    uint16_t next = 0;          // in the free list, or in the chain
    uint16_t chain_length = 0;  // if i is the head of a chain; else 0
    uint16_t table = kNoTable;  // of the chain whose head is i
    uint64_t writable_bytes = 0;
    uint64_t token = 0;
  };

  DriverQueue(VirtqueueMemory memory, const DriverQueueOptions& options,
              std::optional<Translation> tables);

  // Write a chain of `count` descriptors, which `describe` makes except for
  // `next`, to the descriptor table, from free_head_ on, or to an indirect
  // table.
  template <typename Describe>
  void WriteChain(size_t count, const Describe& describe);
  template <typename Describe>
  void WriteTable(size_t count, const Describe& describe);
  absl::Status CheckTables() const;
  absl::Status Break(absl::Status status);

  VirtqueueMemory memory_;
  bool event_index_;
  // True if GetUsed advances used_event: with the event index, unless
  // notifications are off.
  bool moves_event_;
  // Empty if the feature was not negotiated. Pinned.
  IndirectTables tables_;
  std::optional<Translation> tables_memory_;
  std::vector<uint16_t> free_tables_;
  std::vector<Slot> slots_;
  uint16_t free_head_ = 0;
  uint16_t free_count_;
  // Free-running, as the rings' idx: the next entry to write, and the next to
  // read.
  uint16_t next_available_;
  uint16_t next_used_;
  // Chains added since the last NeedsKick. Counted, since the index may have
  // wrapped around.
  uint64_t unasked_ = 0;
  // The error of a broken ring; else OK.
  absl::Status broken_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_DRIVER_DRIVER_QUEUE_H_
