#include "guestmm/virtio/driver/driver_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// The largest total size of a chain (§2.7.5.2).
constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;

// Adds the sizes of `buffers` to `total`.
absl::Status AddUp(std::span<const GpaRange> buffers, uint64_t& total) {
  for (const GpaRange& buffer : buffers) {
    if (buffer.bytes == 0 ||
        buffer.bytes > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "buffer of %d bytes: must be 1 to 2^32-1", buffer.bytes));
    }
    total += buffer.bytes;
  }
  return absl::OkStatus();
}

absl::Status ValidateTables(const IndirectTables& tables, uint16_t size) {
  if (tables.entries < 2 || tables.entries > size || tables.count > size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d indirect tables of %d entries: must be at most %d, "
                        "of 2 to %d entries",
                        tables.count, tables.entries, size, size));
  }
  if (!tables.start.IsAligned(kVirtqDescriptorsAlignment)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("indirect tables at gpa 0x%x: must be a multiple of %d",
                        tables.start.value(), kVirtqDescriptorsAlignment));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DriverQueue> DriverQueue::Create(
    const GuestRam& ram, const VirtqueueLayout& layout,
    const DriverQueueOptions& options) {
  absl::StatusOr<VirtqueueMemory> memory = VirtqueueMemory::Map(ram, layout);
  if (!memory.ok()) return memory.status();
  std::optional<Translation> tables;
  if (options.features.indirect && options.tables.count > 0) {
    absl::Status status = ValidateTables(options.tables, layout.size);
    if (!status.ok()) return status;
    tables = ram.Translate({options.tables.start, options.tables.bytes()});
    if (!tables) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "indirect tables at gpa 0x%x, %d bytes: must be within one region of "
          "guest RAM",
          options.tables.start.value(), options.tables.bytes()));
    }
  }
  // §2.7.10.1: used.flags is initially 0, and so is available.flags.
  memory->Clear();
  const uint16_t start = options.start;
  memory->available_idx().store(start, std::memory_order_relaxed);
  memory->used_idx().store(start, std::memory_order_relaxed);
  if (options.features.event_index) {
    // Each side wants a notification for the first chain.
    memory->used_event().store(start, std::memory_order_relaxed);
    memory->avail_event().store(start, std::memory_order_relaxed);
  }
  return DriverQueue(*std::move(memory), options, std::move(tables));
}

DriverQueue::DriverQueue(VirtqueueMemory memory,
                         const DriverQueueOptions& options,
                         std::optional<Translation> tables)
    : memory_(std::move(memory)),
      event_index_(options.features.event_index),
      moves_event_(event_index_),
      tables_(tables ? options.tables : IndirectTables{}),
      tables_memory_(std::move(tables)),
      slots_(memory_.size()),
      free_count_(memory_.size()),
      next_available_(options.start),
      next_used_(options.start) {
  for (uint16_t i = 0; i < size(); ++i) {
    slots_[i].next = static_cast<uint16_t>(i + 1);
  }
  // Pushed in reverse, so that table 0 is used first.
  for (uint16_t i = tables_.count; i > 0; --i) {
    free_tables_.push_back(static_cast<uint16_t>(i - 1));
  }
}

template <typename Describe>
void DriverQueue::WriteChain(size_t count, const Describe& describe) {
  const uint16_t head = free_head_;
  uint16_t index = head;
  for (size_t i = 0; i < count; ++i) {
    VirtqDesc descriptor = describe(i);
    const uint16_t next = slots_[index].next;
    if (i + 1 < count) descriptor.next = next;
    memory_.StoreDescriptor(index, descriptor);
    index = next;
  }
  free_head_ = index;
  free_count_ = static_cast<uint16_t>(free_count_ - count);
  slots_[head].chain_length = static_cast<uint16_t>(count);
}

template <typename Describe>
void DriverQueue::WriteTable(size_t count, const Describe& describe) {
  const uint16_t head = free_head_;
  const uint16_t table = free_tables_.back();
  free_tables_.pop_back();
  const uint64_t offset = table * tables_.table_bytes();
  std::byte* const entries = tables_memory_->bytes().data() + offset;
  for (size_t i = 0; i < count; ++i) {
    VirtqDesc descriptor = describe(i);
    if (i + 1 < count) descriptor.next = static_cast<uint16_t>(i + 1);
    StoreDescriptorAt(entries + i * sizeof(VirtqDesc), descriptor);
  }
  // §2.7.5.3.1: INDIRECT without NEXT, and no INDIRECT within the table.
  memory_.StoreDescriptor(
      head, {.addr = (tables_.start + offset).value(),
             .len = static_cast<uint32_t>(count * sizeof(VirtqDesc)),
             .flags = kVirtqDescIndirect,
             .next = 0});
  free_head_ = slots_[head].next;
  --free_count_;
  slots_[head].chain_length = 1;
  slots_[head].table = table;
}

absl::Status DriverQueue::Add(std::span<const GpaRange> readable,
                              std::span<const GpaRange> writable,
                              uint64_t token) {
  const size_t count = readable.size() + writable.size();
  if (count == 0 || count > size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("chain of %d buffers: must be 1 to %d", count, size()));
  }
  uint64_t total = 0;
  if (absl::Status status = AddUp(readable, total); !status.ok()) return status;
  const uint64_t readable_bytes = total;
  if (absl::Status status = AddUp(writable, total); !status.ok()) return status;
  if (total > kMaxChainBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "chain of %d bytes: must be at most %d", total, kMaxChainBytes));
  }
  const bool is_indirect =
      count > 1 && count <= tables_.entries && !free_tables_.empty();
  if ((is_indirect ? 1 : count) > free_count_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "chain of %d buffers: only %d of %d descriptors are free", count,
        free_count_, size()));
  }

  const uint16_t head = free_head_;
  const auto describe = [&](size_t i) -> VirtqDesc {
    const bool is_writable = i >= readable.size();
    const GpaRange& buffer =
        is_writable ? writable[i - readable.size()] : readable[i];
    uint16_t flags = is_writable ? kVirtqDescWrite : 0;
    if (i + 1 < count) flags |= kVirtqDescNext;
    return {.addr = buffer.gpa.value(),
            .len = static_cast<uint32_t>(buffer.bytes),
            .flags = flags,
            .next = 0};
  };
  if (is_indirect) {
    WriteTable(count, describe);
  } else {
    WriteChain(count, describe);
  }
  slots_[head].writable_bytes = total - readable_bytes;
  slots_[head].token = token;

  memory_.available_ring(memory_.slot(next_available_))
      .store(head, std::memory_order_relaxed);
  ++next_available_;
  ++unasked_;
  // Release: a device that sees this index sees the entry, the descriptors and
  // the indirect table (§2.7.13.3.1). Sequentially consistent with the load in
  // NeedsKick: either the device sees this index after enabling notifications
  // or advancing avail_event, or NeedsKick sees what the device wrote
  // (§2.7.13.4.1).
  memory_.available_idx().store(next_available_, std::memory_order_seq_cst);
  return absl::OkStatus();
}

bool DriverQueue::NeedsKick() {
  const uint64_t added = std::exchange(unasked_, 0);
  // Both loads are sequentially consistent with the store of the index in Add.
  // The field that was not negotiated is ignored (§2.7.10.1).
  if (event_index_) {
    return NeedsEvent(memory_.avail_event().load(std::memory_order_seq_cst),
                      next_available_, added);
  }
  return (memory_.used_flags().load(std::memory_order_seq_cst) &
          kVirtqUsedNoNotify) == 0;
}

absl::StatusOr<std::optional<DriverQueue::Used>> DriverQueue::GetUsed() {
  if (!broken_.ok()) return broken_;
  // Acquire, pairing with the device's release of the index: the element, and
  // what the device wrote to the buffers, can be read after it. Sequentially
  // consistent with the preceding store of used_event: see below.
  const uint16_t used_idx = memory_.used_idx().load(std::memory_order_seq_cst);
  const uint16_t pending = static_cast<uint16_t>(used_idx - next_used_);
  if (pending == 0) return std::nullopt;
  if (pending > outstanding()) {
    return Break(absl::DataLossError(absl::StrFormat(
        "used index moved from %d to %d, with %d chains outstanding",
        next_used_, used_idx, outstanding())));
  }
  const VirtqUsedElem element = memory_.LoadUsed(memory_.slot(next_used_));
  if (element.id >= size() || slots_[element.id].chain_length == 0) {
    return Break(absl::DataLossError(absl::StrFormat(
        "used ring has head %d, whose chain is not outstanding", element.id)));
  }
  const auto head = static_cast<uint16_t>(element.id);
  if (element.len > slots_[head].writable_bytes) {
    return Break(absl::DataLossError(absl::StrFormat(
        "used ring has %d bytes written to chain %d, which has room for %d",
        element.len, head, slots_[head].writable_bytes)));
  }

  // Prepend the chain's descriptors to the free list, and its table too.
  const uint16_t length = std::exchange(slots_[head].chain_length, 0);
  uint16_t last = head;
  for (uint16_t i = 1; i < length; ++i) last = slots_[last].next;
  slots_[last].next = free_head_;
  free_head_ = head;
  free_count_ = static_cast<uint16_t>(free_count_ + length);
  if (slots_[head].table != kNoTable) {
    free_tables_.push_back(std::exchange(slots_[head].table, kNoTable));
  }
  ++next_used_;
  // Sequentially consistent with the next GetUsed's load of the index: either
  // the device sees this store after advancing the index, or that GetUsed sees
  // the advanced index (§2.7.7.1).
  if (moves_event_) {
    memory_.used_event().store(next_used_, std::memory_order_seq_cst);
  }
  return Used{.token = slots_[head].token, .bytes_written = element.len};
}

void DriverQueue::DisableNotifications() {
  // Both stores are relaxed: this is a hint and orders nothing.
  if (event_index_) {
    // §2.7.7.1: the flags stay 0. The entry before the next one is the last
    // that the device reaches.
    moves_event_ = false;
    memory_.used_event().store(static_cast<uint16_t>(next_used_ - 1),
                               std::memory_order_relaxed);
    return;
  }
  memory_.available_flags().store(kVirtqAvailNoInterrupt,
                                  std::memory_order_relaxed);
}

bool DriverQueue::EnableNotifications() {
  // All are sequentially consistent: either the device sees that notifications
  // are on after advancing the index, or this load sees the advanced index
  // (§2.7.7.2).
  if (event_index_) {
    moves_event_ = true;
    memory_.used_event().store(next_used_, std::memory_order_seq_cst);
  } else {
    memory_.available_flags().store(0, std::memory_order_seq_cst);
  }
  return memory_.used_idx().load(std::memory_order_seq_cst) != next_used_;
}

absl::Status DriverQueue::CheckInvariants() const {
  // By descriptor: whether it was seen. Each must be seen exactly once.
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
    return absl::InternalError(absl::StrFormat(
        "V1: free list of %d descriptors leaves the table or has one twice",
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
        absl::StrFormat("V1: %d descriptors free or outstanding, of %d; %d "
                        "chains outstanding, but %d according to the indexes",
                        descriptors, size(), chains, outstanding()));
  }
  return CheckTables();
}

absl::Status DriverQueue::CheckTables() const {
  // By table: whether it was seen. Each must be seen exactly once.
  std::vector<bool> met(tables_.count);
  const auto meet = [&](uint16_t table) {
    if (table >= met.size() || met[table]) return false;
    met[table] = true;
    return true;
  };
  bool is_good = true;
  for (const uint16_t table : free_tables_) is_good &= meet(table);
  for (const Slot& slot : slots_) {
    if (slot.table == kNoTable) continue;
    is_good &= slot.chain_length == 1 && meet(slot.table);
  }
  is_good &= std::count(met.begin(), met.end(), true) == tables_.count;
  if (is_good) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "V4: of %d indirect tables, %d of them free, one is lost or used twice",
      tables_.count, free_tables_.size()));
}

absl::Status DriverQueue::Break(absl::Status status) {
  broken_ = std::move(status);
  return broken_;
}

}  // namespace guestmm
