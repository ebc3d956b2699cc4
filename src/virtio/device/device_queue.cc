#include "guestmm/virtio/device/device_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {

absl::StatusOr<DeviceQueue> DeviceQueue::Create(const GuestRam& ram,
                                                const VirtqueueLayout& layout,
                                                VirtqueueFeatures features,
                                                uint16_t start) {
  absl::StatusOr<VirtqueueMemory> memory = VirtqueueMemory::Map(ram, layout);
  if (!memory.ok()) return memory.status();
  // A new queue has it from the driver; of one that was served before, it may
  // be anything.
  if (features.event_index) {
    memory->avail_event().store(start, std::memory_order_seq_cst);
  }
  return DeviceQueue(ram, *std::move(memory), features, start);
}

DeviceQueue::DeviceQueue(const GuestRam& ram, VirtqueueMemory memory,
                         VirtqueueFeatures features, uint16_t start)
    : ram_(&ram),
      memory_(std::move(memory)),
      indirect_flag_(features.indirect ? kVirtqDescIndirect : uint16_t{0}),
      event_index_(features.event_index),
      moves_event_(features.event_index),
      is_out_(memory_.size()),
      next_available_(start),
      next_used_(start) {
  chain_.reserve(size());
}

absl::StatusOr<std::optional<DescriptorChain>> DeviceQueue::Pop() {
  if (!broken_.ok()) return broken_;
  // Acquire: pairs with the driver's release of the index, so that the entry
  // the descriptors and the indirect tables it covers are there to read.
  // Sequentially consistent, with the last store of avail_event: see below.
  const uint16_t available_idx =
      memory_.available_idx().load(std::memory_order_seq_cst);
  const uint16_t pending =
      static_cast<uint16_t>(available_idx - next_available_);
  if (pending == 0) return std::nullopt;
  if (pending > size() - outstanding()) {
    return Break(absl::DataLossError(absl::StrFormat(
        "available index went from %d to %d, with %d chains out of a queue of "
        "%d",
        next_available_, available_idx, outstanding(), size())));
  }
  const uint16_t head = memory_.available_ring(memory_.slot(next_available_))
                            .load(std::memory_order_relaxed);
  if (head >= size()) {
    return Break(absl::DataLossError(
        absl::StrFormat("available ring names descriptor %d, past a table of "
                        "%d",
                        head, size())));
  }
  if (is_out_[head]) {
    return Break(absl::DataLossError(absl::StrFormat(
        "available ring names chain %d, which is out already", head)));
  }

  chain_.clear();
  uint16_t index = head;
  // A chain ends with the first table that it names (§2.7.5.3.1).
  const uint16_t flags_that_matter = kVirtqDescNext | indirect_flag_;
  while (true) {
    chain_.push_back(memory_.LoadDescriptor(index));
    const VirtqDesc& descriptor = chain_.back();
    if ((descriptor.flags & flags_that_matter) != kVirtqDescNext) break;
    if (descriptor.next >= size()) {
      return Break(absl::DataLossError(
          absl::StrFormat("descriptor %d goes on at %d, past a table of %d",
                          index, descriptor.next, size())));
    }
    if (chain_.size() == size()) {
      return Break(absl::DataLossError(absl::StrFormat(
          "chain %d is longer than the queue of %d: it loops", head, size())));
    }
    index = descriptor.next;
  }
  TableFault fault = TableFault::kNone;
  if ((chain_.back().flags & indirect_flag_) != 0) {
    const VirtqDesc descriptor = chain_.back();
    chain_.pop_back();
    fault = ReadTable(descriptor);
  }
  is_out_[head] = true;
  ++next_available_;
  // Sequentially consistent, with the load of the index by the next Pop: either
  // the driver sees this after it moved the index, or that Pop sees the index
  // moved (§2.7.10.2).
  if (moves_event_) {
    memory_.avail_event().store(next_available_, std::memory_order_seq_cst);
  }
  return DescriptorChain{
      .head = head, .table_fault = fault, .descriptors = chain_};
}

TableFault DeviceQueue::ReadTable(const VirtqDesc& descriptor) {
  // WRITE on it says nothing (§2.7.5.3.2), and nor does next.
  if ((descriptor.flags & kVirtqDescNext) != 0) return TableFault::kGoesOn;
  if (descriptor.len == 0 || descriptor.len % sizeof(VirtqDesc) != 0) {
    return TableFault::kSize;
  }
  const std::optional<Translation> table =
      ram_->Translate({Gpa(descriptor.addr), descriptor.len});
  if (!table) return TableFault::kOutsideRam;
  const size_t entries = descriptor.len / sizeof(VirtqDesc);
  const size_t before = chain_.size();
  const auto fails = [&](TableFault fault) {
    chain_.resize(before);
    return fault;
  };
  // However long the table is, no more than the queue's size is read of it.
  for (size_t index = 0;;) {
    if (chain_.size() == size()) return fails(TableFault::kTooLong);
    chain_.push_back(LoadUnalignedDescriptorAt(table->bytes().data() +
                                               index * sizeof(VirtqDesc)));
    const VirtqDesc& entry = chain_.back();
    if ((entry.flags & kVirtqDescIndirect) != 0) {
      return fails(TableFault::kNested);
    }
    if ((entry.flags & kVirtqDescNext) == 0) return TableFault::kNone;
    if (entry.next >= entries) return fails(TableFault::kNextPastTable);
    index = entry.next;
  }
}

void DeviceQueue::Push(uint16_t head, uint32_t bytes_written) {
  GUESTMM_CHECK(head < size() && is_out_[head])
      << "chain " << head << " pushed, which is not out";
  is_out_[head] = false;
  memory_.StoreUsed(memory_.slot(next_used_),
                    {.id = head, .len = bytes_written});
  ++next_used_;
  ++unasked_;
  // Release: a driver that sees this index sees the element, and whatever was
  // done with the chain is done. Sequentially consistent, with the load in
  // NeedsNotification: either the driver, turning notifications on or moving
  // used_event, sees this index, or NeedsNotification sees what it wrote
  // (§2.7.7.2).
  memory_.used_idx().store(next_used_, std::memory_order_seq_cst);
}

bool DeviceQueue::NeedsNotification() {
  const uint64_t pushed = std::exchange(unasked_, 0);
  // Sequentially consistent, either: see the store of the index in Push. Of the
  // two the one that was not agreed on is ignored (§2.7.7.2).
  if (event_index_) {
    return NeedsEvent(memory_.used_event().load(std::memory_order_seq_cst),
                      next_used_, pushed);
  }
  return (memory_.available_flags().load(std::memory_order_seq_cst) &
          kVirtqAvailNoInterrupt) == 0;
}

void DeviceQueue::DisableNotifications() {
  // Relaxed, either: a hint, which orders nothing.
  if (event_index_) {
    // §2.7.10.2: the flags stay 0. The entry before the next is the one that
    // the driver comes to last.
    moves_event_ = false;
    memory_.avail_event().store(static_cast<uint16_t>(next_available_ - 1),
                                std::memory_order_relaxed);
    return;
  }
  memory_.used_flags().store(kVirtqUsedNoNotify, std::memory_order_relaxed);
}

bool DeviceQueue::EnableNotifications() {
  // Sequentially consistent, all: either the driver sees kicks wanted after it
  // moved the index, or we see the index moved (§2.7.13.4.1).
  if (event_index_) {
    moves_event_ = true;
    memory_.avail_event().store(next_available_, std::memory_order_seq_cst);
  } else {
    memory_.used_flags().store(0, std::memory_order_seq_cst);
  }
  return memory_.available_idx().load(std::memory_order_seq_cst) !=
         next_available_;
}

absl::Status DeviceQueue::CheckInvariants() const {
  const auto out = std::count(is_out_.begin(), is_out_.end(), true);
  if (out != outstanding()) {
    return absl::InternalError(absl::StrFormat(
        "V2: %d chains out, by the indexes %d", out, outstanding()));
  }
  if (chain_.size() > size()) {
    return absl::InternalError(absl::StrFormat(
        "V1: chain of %d descriptors in a queue of %d", chain_.size(), size()));
  }
  return absl::OkStatus();
}

absl::Status DeviceQueue::Break(absl::Status status) {
  broken_ = std::move(status);
  return broken_;
}

}  // namespace guestmm
