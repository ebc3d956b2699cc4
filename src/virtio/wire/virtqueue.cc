#include "guestmm/virtio/wire/virtqueue.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// A descriptor as two words, so that two loads read each field once.
struct DescriptorWords {
  uint64_t addr;
  uint64_t rest;
};
static_assert(sizeof(DescriptorWords) == sizeof(VirtqDesc));

template <typename Word>
std::atomic_ref<Word> WordAt(std::byte* hva) {
  return std::atomic_ref<Word>(*reinterpret_cast<Word*>(hva));
}

absl::Status Misaligned(const char* part, Gpa gpa, uint64_t alignment) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s at gpa 0x%x: must be a multiple of %d", part,
                      gpa.value(), alignment));
}

absl::StatusOr<Translation> MapPart(const GuestRam& ram, const char* part,
                                    GpaRange range) {
  std::optional<Translation> translation = ram.Translate(range);
  if (!translation) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s at gpa 0x%x, %d bytes: must be within one region of guest RAM",
        part, range.gpa.value(), range.bytes));
  }
  return *std::move(translation);
}

}  // namespace

absl::Status ValidateLayout(const VirtqueueLayout& layout) {
  if (!IsVirtqueueSize(layout.size)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue size %d: must be a power of 2 up to %d",
                        layout.size, kMaxVirtqueueSize));
  }
  if (!layout.descriptors.IsAligned(kVirtqDescriptorsAlignment)) {
    return Misaligned("descriptor table", layout.descriptors,
                      kVirtqDescriptorsAlignment);
  }
  if (!layout.available.IsAligned(kVirtqAvailableAlignment)) {
    return Misaligned("available ring", layout.available,
                      kVirtqAvailableAlignment);
  }
  if (!layout.used.IsAligned(kVirtqUsedAlignment)) {
    return Misaligned("used ring", layout.used, kVirtqUsedAlignment);
  }
  return absl::OkStatus();
}

absl::StatusOr<VirtqueueMemory> VirtqueueMemory::Map(
    const GuestRam& ram, const VirtqueueLayout& layout) {
  if (absl::Status status = ValidateLayout(layout); !status.ok()) {
    return status;
  }
  // hva and gpa are equal modulo 2 MiB, so the alignment carries over.
  absl::StatusOr<Translation> descriptors =
      MapPart(ram, "descriptor table",
              {layout.descriptors, layout.descriptors_bytes()});
  if (!descriptors.ok()) return descriptors.status();
  absl::StatusOr<Translation> available = MapPart(
      ram, "available ring", {layout.available, layout.available_bytes()});
  if (!available.ok()) return available.status();
  absl::StatusOr<Translation> used =
      MapPart(ram, "used ring", {layout.used, layout.used_bytes()});
  if (!used.ok()) return used.status();
  return VirtqueueMemory(layout.size, *std::move(descriptors),
                         *std::move(available), *std::move(used));
}

VirtqDesc LoadDescriptorAt(const std::byte* hva) {
  // C++20's atomic_ref does not accept a const object; this only loads.
  std::byte* const at = const_cast<std::byte*>(hva);
  const DescriptorWords words = {
      .addr = WordAt<uint64_t>(at + offsetof(DescriptorWords, addr))
                  .load(std::memory_order_relaxed),
      .rest = WordAt<uint64_t>(at + offsetof(DescriptorWords, rest))
                  .load(std::memory_order_relaxed)};
  return std::bit_cast<VirtqDesc>(words);
}

void StoreDescriptorAt(std::byte* hva, const VirtqDesc& descriptor) {
  const auto words = std::bit_cast<DescriptorWords>(descriptor);
  WordAt<uint64_t>(hva + offsetof(DescriptorWords, addr))
      .store(words.addr, std::memory_order_relaxed);
  WordAt<uint64_t>(hva + offsetof(DescriptorWords, rest))
      .store(words.rest, std::memory_order_relaxed);
}

VirtqDesc LoadUnalignedDescriptorAt(const std::byte* hva) {
  if (reinterpret_cast<uintptr_t>(hva) % alignof(DescriptorWords) == 0) {
    return LoadDescriptorAt(hva);
  }
  std::array<std::byte, sizeof(VirtqDesc)> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = WordAt<std::byte>(const_cast<std::byte*>(hva) + i)
                   .load(std::memory_order_relaxed);
  }
  return std::bit_cast<VirtqDesc>(bytes);
}

VirtqDesc VirtqueueMemory::LoadDescriptor(uint16_t index) const {
  return LoadDescriptorAt(descriptors_ + index * sizeof(VirtqDesc));
}

void VirtqueueMemory::StoreDescriptor(uint16_t index,
                                      const VirtqDesc& descriptor) const {
  StoreDescriptorAt(descriptors_ + index * sizeof(VirtqDesc), descriptor);
}

// The used ring is only 4-byte aligned, so an element is loaded as two words.
VirtqUsedElem VirtqueueMemory::LoadUsed(uint16_t slot) const {
  std::byte* const at =
      used_ + sizeof(VirtqRingHeader) + slot * sizeof(VirtqUsedElem);
  return {.id = WordAt<uint32_t>(at + offsetof(VirtqUsedElem, id))
                    .load(std::memory_order_relaxed),
          .len = WordAt<uint32_t>(at + offsetof(VirtqUsedElem, len))
                     .load(std::memory_order_relaxed)};
}

void VirtqueueMemory::StoreUsed(uint16_t slot, VirtqUsedElem element) const {
  std::byte* const at =
      used_ + sizeof(VirtqRingHeader) + slot * sizeof(VirtqUsedElem);
  WordAt<uint32_t>(at + offsetof(VirtqUsedElem, id))
      .store(element.id, std::memory_order_relaxed);
  WordAt<uint32_t>(at + offsetof(VirtqUsedElem, len))
      .store(element.len, std::memory_order_relaxed);
}

void VirtqueueMemory::Clear() const {
  for (uint16_t i = 0; i < size_; ++i) {
    StoreDescriptor(i, VirtqDesc{});
    StoreUsed(i, VirtqUsedElem{});
    available_ring(i).store(0, std::memory_order_relaxed);
  }
  for (const auto& word : {available_flags(), available_idx(), used_event(),
                           used_flags(), used_idx(), avail_event()}) {
    word.store(0, std::memory_order_relaxed);
  }
}

}  // namespace guestmm
