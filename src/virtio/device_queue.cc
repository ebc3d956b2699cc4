#include "guestmm/virtio/device_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {

absl::StatusOr<DeviceQueue> DeviceQueue::Create(const GuestRam& ram,
                                                const VirtqueueLayout& layout,
                                                uint16_t start) {
  absl::StatusOr<VirtqueueMemory> memory = VirtqueueMemory::Map(ram, layout);
  if (!memory.ok()) return memory.status();
  return DeviceQueue(*std::move(memory), start);
}

DeviceQueue::DeviceQueue(VirtqueueMemory memory, uint16_t start)
    : memory_(std::move(memory)),
      is_out_(memory_.size()),
      next_available_(start),
      next_used_(start) {
  chain_.reserve(size());
}

absl::StatusOr<std::optional<DescriptorChain>> DeviceQueue::Pop() {
  if (!broken_.ok()) return broken_;
  // Acquire: pairs with the driver's release of the index, so that the entry
  // and the descriptors it covers are there to read.
  const uint16_t available_idx =
      memory_.available_idx().load(std::memory_order_acquire);
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
  while (true) {
    chain_.push_back(memory_.LoadDescriptor(index));
    const VirtqDesc& descriptor = chain_.back();
    if ((descriptor.flags & kVirtqDescNext) == 0) break;
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
  is_out_[head] = true;
  ++next_available_;
  return DescriptorChain{.head = head, .descriptors = chain_};
}

void DeviceQueue::Push(uint16_t head, uint32_t bytes_written) {
  GUESTMM_CHECK(head < size() && is_out_[head])
      << "chain " << head << " pushed, which is not out";
  is_out_[head] = false;
  memory_.StoreUsed(memory_.slot(next_used_),
                    {.id = head, .len = bytes_written});
  ++next_used_;
  // Release: a driver that sees this index sees the element, and whatever was
  // done with the chain is done. Sequentially consistent, with the load in
  // NeedsNotification: either the driver, turning notifications on, sees this
  // index, or NeedsNotification sees them on (§2.7.7.2).
  memory_.used_idx().store(next_used_, std::memory_order_seq_cst);
}

bool DeviceQueue::NeedsNotification() const {
  // See the store of the index in Push.
  return (memory_.available_flags().load(std::memory_order_seq_cst) &
          kVirtqAvailNoInterrupt) == 0;
}

void DeviceQueue::DisableNotifications() {
  memory_.used_flags().store(kVirtqUsedNoNotify, std::memory_order_relaxed);
}

bool DeviceQueue::EnableNotifications() {
  // Sequentially consistent, both: either the driver sees kicks wanted after it
  // moved the index, or we see the index moved (§2.7.13.4.1).
  memory_.used_flags().store(0, std::memory_order_seq_cst);
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
