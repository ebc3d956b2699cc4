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
  // In a new queue the driver has zeroed it. A queue used before may have any
  // value there.
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
  // Acquire, pairing with the driver's release of the index: the entry, its
  // descriptors and its indirect tables can be read after it. Sequentially
  // consistent with the preceding store of avail_event: see below.
  const uint16_t available_idx =
      memory_.available_idx().load(std::memory_order_seq_cst);
  const uint16_t pending =
      static_cast<uint16_t>(available_idx - next_available_);
  if (pending == 0) return std::nullopt;
  if (pending > size() - outstanding()) {
    return Break(absl::DataLossError(absl::StrFormat(
        "available index moved from %d to %d, with %d chains outstanding in a "
        "queue of %d",
        next_available_, available_idx, outstanding(), size())));
  }
  const uint16_t head = memory_.available_ring(memory_.slot(next_available_))
                            .load(std::memory_order_relaxed);
  if (head >= size()) {
    return Break(absl::DataLossError(absl::StrFormat(
        "available ring has head %d, past the end of a table of %d", head,
        size())));
  }
  if (is_out_[head]) {
    return Break(absl::DataLossError(absl::StrFormat(
        "available ring has head %d, whose chain is outstanding already",
        head)));
  }

  chain_.clear();
  uint16_t index = head;
  // A chain ends with the first indirect table (§2.7.5.3.1).
  const uint16_t flags_that_matter = kVirtqDescNext | indirect_flag_;
  while (true) {
    chain_.push_back(memory_.LoadDescriptor(index));
    const VirtqDesc& descriptor = chain_.back();
    if ((descriptor.flags & flags_that_matter) != kVirtqDescNext) break;
    if (descriptor.next >= size()) {
      return Break(absl::DataLossError(absl::StrFormat(
          "descriptor %d continues at %d, past the end of a table of %d", index,
          descriptor.next, size())));
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
  // Sequentially consistent with the next Pop's load of the index: either the
  // driver sees this store after advancing the index, or that Pop sees the
  // advanced index (§2.7.10.2).
  if (moves_event_) {
    memory_.avail_event().store(next_available_, std::memory_order_seq_cst);
  }
  return DescriptorChain{
      .head = head, .table_fault = fault, .descriptors = chain_};
}

TableFault DeviceQueue::ReadTable(const VirtqDesc& descriptor) {
  // On this descriptor WRITE is ignored (§2.7.5.3.2), and so is `next`.
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
  // Reads at most as many entries as the queue has descriptors, whatever the
  // table's size.
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
      << "chain " << head << " pushed, but not outstanding";
  is_out_[head] = false;
  memory_.StoreUsed(memory_.slot(next_used_),
                    {.id = head, .len = bytes_written});
  ++next_used_;
  ++unasked_;
  // Release: a driver that sees this index sees the element, and that the chain
  // was handled. Sequentially consistent with the load in NeedsNotification:
  // either the driver sees this index after enabling notifications or advancing
  // used_event, or NeedsNotification sees what the driver wrote (§2.7.7.2).
  memory_.used_idx().store(next_used_, std::memory_order_seq_cst);
}

bool DeviceQueue::NeedsNotification() {
  const uint64_t pushed = std::exchange(unasked_, 0);
  // Both loads are sequentially consistent with the store of the index in Push.
  // The field that was not negotiated is ignored (§2.7.7.2).
  if (event_index_) {
    return NeedsEvent(memory_.used_event().load(std::memory_order_seq_cst),
                      next_used_, pushed);
  }
  return (memory_.available_flags().load(std::memory_order_seq_cst) &
          kVirtqAvailNoInterrupt) == 0;
}

void DeviceQueue::DisableNotifications() {
  // Both stores are relaxed: this is a hint and orders nothing.
  if (event_index_) {
    // §2.7.10.2: the flags stay 0. The entry before the next one is the last
    // that the driver reaches.
    moves_event_ = false;
    memory_.avail_event().store(static_cast<uint16_t>(next_available_ - 1),
                                std::memory_order_relaxed);
    return;
  }
  memory_.used_flags().store(kVirtqUsedNoNotify, std::memory_order_relaxed);
}

bool DeviceQueue::EnableNotifications() {
  // All are sequentially consistent: either the driver sees that kicks are
  // wanted after advancing the index, or this load sees the advanced index
  // (§2.7.13.4.1).
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
        "V2: %d chains outstanding, but %d according to the indexes", out,
        outstanding()));
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
