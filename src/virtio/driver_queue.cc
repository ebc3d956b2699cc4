#include "guestmm/virtio/driver_queue.h"

#include <limits>
#include <utility>

#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// The most that a chain may hold (§2.7.5.2).
constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;

// Adds the sizes of `buffers` to `total`.
absl::Status AddUp(std::span<const GpaRange> buffers, uint64_t& total) {
  for (const GpaRange& buffer : buffers) {
    if (buffer.bytes == 0 ||
        buffer.bytes > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "buffer of %d bytes: a descriptor holds 1 to 2^32-1", buffer.bytes));
    }
    total += buffer.bytes;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DriverQueue> DriverQueue::Create(const GuestRam& ram,
                                                const VirtqueueLayout& layout,
                                                uint16_t start) {
  absl::StatusOr<VirtqueueMemory> memory = VirtqueueMemory::Map(ram, layout);
  if (!memory.ok()) return memory.status();
  memory->Clear();
  memory->available_idx().store(start, std::memory_order_relaxed);
  memory->used_idx().store(start, std::memory_order_relaxed);
  return DriverQueue(*std::move(memory), start);
}

DriverQueue::DriverQueue(VirtqueueMemory memory, uint16_t start)
    : memory_(std::move(memory)),
      slots_(memory_.size()),
      free_count_(memory_.size()),
      next_available_(start),
      next_used_(start) {
  for (uint16_t i = 0; i < size(); ++i) {
    slots_[i].next = static_cast<uint16_t>(i + 1);
  }
}

absl::Status DriverQueue::Add(std::span<const GpaRange> readable,
                              std::span<const GpaRange> writable,
                              uint64_t token) {
  const size_t count = readable.size() + writable.size();
  if (count == 0 || count > size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "chain of %d buffers: the queue takes 1 to %d", count, size()));
  }
  uint64_t total = 0;
  if (absl::Status status = AddUp(readable, total); !status.ok()) return status;
  const uint64_t readable_bytes = total;
  if (absl::Status status = AddUp(writable, total); !status.ok()) return status;
  if (total > kMaxChainBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "chain of %d bytes: at most %d", total, kMaxChainBytes));
  }
  if (count > free_count_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("chain of %d buffers: %d of %d descriptors are free",
                        count, free_count_, size()));
  }

  const uint16_t head = free_head_;
  uint16_t index = head;
  for (size_t i = 0; i < count; ++i) {
    const bool is_writable = i >= readable.size();
    const GpaRange& buffer =
        is_writable ? writable[i - readable.size()] : readable[i];
    const bool is_last = i + 1 == count;
    uint16_t flags = is_writable ? kVirtqDescWrite : 0;
    if (!is_last) flags |= kVirtqDescNext;
    const uint16_t next = slots_[index].next;
    memory_.StoreDescriptor(index, {.addr = buffer.gpa.value(),
                                    .len = static_cast<uint32_t>(buffer.bytes),
                                    .flags = flags,
                                    .next = is_last ? uint16_t{0} : next});
    index = next;
  }
  free_head_ = index;
  free_count_ = static_cast<uint16_t>(free_count_ - count);
  slots_[head].chain_length = static_cast<uint16_t>(count);
  slots_[head].writable_bytes = total - readable_bytes;
  slots_[head].token = token;

  memory_.available_ring(memory_.slot(next_available_))
      .store(head, std::memory_order_relaxed);
  ++next_available_;
  // Release: a device that sees this index sees the entry and the descriptors
  // (§2.7.13.3.1). Sequentially consistent, with the load in NeedsKick: either
  // the device, turning notifications on, sees this index, or NeedsKick sees
  // them on (§2.7.13.4.1).
  memory_.available_idx().store(next_available_, std::memory_order_seq_cst);
  return absl::OkStatus();
}

bool DriverQueue::NeedsKick() const {
  // See the store of the index in Add.
  return (memory_.used_flags().load(std::memory_order_seq_cst) &
          kVirtqUsedNoNotify) == 0;
}

absl::StatusOr<std::optional<DriverQueue::Used>> DriverQueue::GetUsed() {
  if (!broken_.ok()) return broken_;
  // Acquire: pairs with the device's release of the index, so that the element
  // and what the device wrote to the buffers are there to read.
  const uint16_t used_idx = memory_.used_idx().load(std::memory_order_acquire);
  const uint16_t pending = static_cast<uint16_t>(used_idx - next_used_);
  if (pending == 0) return std::nullopt;
  if (pending > outstanding()) {
    return Break(absl::DataLossError(
        absl::StrFormat("used index went from %d to %d, with %d chains out",
                        next_used_, used_idx, outstanding())));
  }
  const VirtqUsedElem element = memory_.LoadUsed(memory_.slot(next_used_));
  if (element.id >= size() || slots_[element.id].chain_length == 0) {
    return Break(absl::DataLossError(absl::StrFormat(
        "used ring names chain %d, which is not out", element.id)));
  }
  const auto head = static_cast<uint16_t>(element.id);
  if (element.len > slots_[head].writable_bytes) {
    return Break(absl::DataLossError(absl::StrFormat(
        "used ring says %d bytes were written to chain %d, which takes %d",
        element.len, head, slots_[head].writable_bytes)));
  }

  // The chain's descriptors go to the front of the free list.
  const uint16_t length = std::exchange(slots_[head].chain_length, 0);
  uint16_t last = head;
  for (uint16_t i = 1; i < length; ++i) last = slots_[last].next;
  slots_[last].next = free_head_;
  free_head_ = head;
  free_count_ = static_cast<uint16_t>(free_count_ + length);
  ++next_used_;
  return Used{.token = slots_[head].token, .bytes_written = element.len};
}

void DriverQueue::DisableNotifications() {
  memory_.available_flags().store(kVirtqAvailNoInterrupt,
                                  std::memory_order_relaxed);
}

bool DriverQueue::EnableNotifications() {
  // Sequentially consistent, both: either the device sees notifications on
  // after it moved the index, or we see the index moved (§2.7.7.2).
  memory_.available_flags().store(0, std::memory_order_seq_cst);
  return memory_.used_idx().load(std::memory_order_seq_cst) != next_used_;
}

absl::Status DriverQueue::CheckInvariants() const {
  // Which descriptors were met: each must be, once.
  std::vector<bool> met(size());
  const auto walk = [&](uint16_t first, uint16_t length) {
    uint16_t index = first;
    for (uint16_t i = 0; i < length; ++i) {
      if (index >= size() || met[index]) return false;
      met[index] = true;
      index = slots_[index].next;
    }
    return true;
  };
  if (!walk(free_head_, free_count_)) {
    return absl::InternalError(
        absl::StrFormat("V1: free list of %d descriptors runs out of the table "
                        "or meets one twice",
                        free_count_));
  }
  uint32_t chains = 0;
  uint32_t descriptors = free_count_;
  for (uint16_t head = 0; head < size(); ++head) {
    const uint16_t length = slots_[head].chain_length;
    if (length == 0) continue;
    ++chains;
    descriptors += length;
    if (!walk(head, length)) {
      return absl::InternalError(absl::StrFormat(
          "V3: chain %d shares a descriptor with another or with the free list",
          head));
    }
  }
  if (descriptors != size() || chains != outstanding()) {
    return absl::InternalError(
        absl::StrFormat("V1: %d descriptors free or out, of %d; %d chains out, "
                        "by the indexes %d",
                        descriptors, size(), chains, outstanding()));
  }
  return absl::OkStatus();
}

absl::Status DriverQueue::Break(absl::Status status) {
  broken_ = std::move(status);
  return broken_;
}

}  // namespace guestmm
