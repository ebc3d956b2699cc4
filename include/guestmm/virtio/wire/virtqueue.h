#ifndef GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_
#define GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_

// A split virtqueue in guest RAM (virtio 1.3 §2.7): what lies where, and how
// both halves reach it. DriverQueue and DeviceQueue speak the protocol.
//
//   descriptor table          available ring            used ring
//   16 bytes * N, align 16    6 + 2 N bytes, align 2    6 + 8 N bytes, align 4
//   written by the driver     written by the driver     written by the device
//   +----------------------+  +--------------------+    +--------------------+
//   | addr len flags next  |  | flags | idx        |    | flags | idx        |
//   |  0: gpa 2 MiB  N -> 3|<-| ring[0]: head 0    | ,->| ring[0]: id 0, len |
//   |  1: free             |  | ring[1]: ...       | |  | ring[1]: ...       |
//   |  2: free             |  | ...                | |  | ...                |
//   |  3: gpa 2 MiB      . |  | used_event         | |  | avail_event        |
//   +----------------------+  +--------------------+ |  +--------------------+
//                             a chain offered at its   head comes back here
//
// Both idx run freely through 16 bits and name a slot modulo N; so
// available.idx - used.idx, modulo 2^16, chains are the device's, N at most.
//
// By feature, a descriptor may stand for a table of them anywhere in guest RAM
// (INDIRECT_DESC), and used_event and avail_event take the place of the flags
// (EVENT_IDX): at which index of the other half each wants to be notified.

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// Everything on the wire is little-endian and used in place.
static_assert(std::endian::native == std::endian::little);

// Flags of a descriptor (§2.7.5).
inline constexpr uint16_t kVirtqDescNext = 1;      // `next` goes on
inline constexpr uint16_t kVirtqDescWrite = 2;     // the device may write
inline constexpr uint16_t kVirtqDescIndirect = 4;  // addr holds descriptors
// available.flags: do not notify me of used chains (§2.7.6).
inline constexpr uint16_t kVirtqAvailNoInterrupt = 1;
// used.flags: do not notify me of available chains (§2.7.8).
inline constexpr uint16_t kVirtqUsedNoNotify = 1;

// struct virtq_desc: one buffer.
struct VirtqDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;

  bool operator==(const VirtqDesc&) const = default;
};
static_assert(sizeof(VirtqDesc) == 16);
static_assert(offsetof(VirtqDesc, len) == 8);
static_assert(offsetof(VirtqDesc, flags) == 12);
static_assert(offsetof(VirtqDesc, next) == 14);

// How the available and the used ring both begin.
struct VirtqRingHeader {
  uint16_t flags;
  uint16_t idx;
};
static_assert(sizeof(VirtqRingHeader) == 4);
static_assert(offsetof(VirtqRingHeader, idx) == 2);

// struct virtq_used_elem: a chain that came back.
struct VirtqUsedElem {
  uint32_t id;   // the chain's head
  uint32_t len;  // bytes that the device wrote to it
};
static_assert(sizeof(VirtqUsedElem) == 8);
static_assert(offsetof(VirtqUsedElem, len) == 4);

// Feature bits of a queue (§6).
inline constexpr uint64_t kVirtioFIndirectDesc = uint64_t{1} << 28;
inline constexpr uint64_t kVirtioFEventIdx = uint64_t{1} << 29;

// What both halves of a queue agreed to use.
struct VirtqueueFeatures {
  bool indirect = false;     // VIRTIO_F_INDIRECT_DESC (§2.7.5.3)
  bool event_index = false;  // VIRTIO_F_EVENT_IDX (§2.7.7, §2.7.10)

  bool operator==(const VirtqueueFeatures&) const = default;
};

constexpr uint64_t ToFeatureBits(VirtqueueFeatures features) {
  return (features.indirect ? kVirtioFIndirectDesc : 0) |
         (features.event_index ? kVirtioFEventIdx : 0);
}
constexpr VirtqueueFeatures ToVirtqueueFeatures(uint64_t bits) {
  return {.indirect = (bits & kVirtioFIndirectDesc) != 0,
          .event_index = (bits & kVirtioFEventIdx) != 0};
}

// Whether a half whose index ran through the last `moved` values to `idx` owes
// the other, which asked to be told of the entry at `event`, a notification:
// whether `event` is one of idx - moved, ..., idx - 1 (§2.7.7.2, §2.7.10.1).
constexpr bool NeedsEvent(uint16_t event, uint16_t idx, uint64_t moved) {
  return static_cast<uint16_t>(idx - event - 1) < moved;
}
static_assert(NeedsEvent(0, 1, 1), "the first entry is that of index 0");
static_assert(!NeedsEvent(1, 1, 1) && !NeedsEvent(0xffff, 1, 1));
static_assert(NeedsEvent(0xffff, 1, 2) && NeedsEvent(0xffff, 0, 1));
static_assert(!NeedsEvent(5, 5, 0xffff) && NeedsEvent(5, 5, 0x10000),
              "all the way round it passes every index");

// The largest queue: half of what a 16-bit index can tell apart.
inline constexpr uint16_t kMaxVirtqueueSize = 32768;

inline constexpr uint64_t kVirtqDescriptorsAlignment = 16;
inline constexpr uint64_t kVirtqAvailableAlignment = 2;
inline constexpr uint64_t kVirtqUsedAlignment = 4;

// Where the driver put a queue of `size` descriptors.
struct VirtqueueLayout {
  uint16_t size = 0;
  Gpa descriptors;
  Gpa available;
  Gpa used;

  constexpr uint64_t descriptors_bytes() const {
    return uint64_t{size} * sizeof(VirtqDesc);
  }
  // Both rings end in the other half's event index, used or not.
  constexpr uint64_t available_bytes() const {
    return sizeof(VirtqRingHeader) + uint64_t{size} * sizeof(uint16_t) +
           sizeof(uint16_t);
  }
  constexpr uint64_t used_bytes() const {
    return sizeof(VirtqRingHeader) + uint64_t{size} * sizeof(VirtqUsedElem) +
           sizeof(uint16_t);
  }

  bool operator==(const VirtqueueLayout&) const = default;
};

// The three parts in one area, in the order of the picture. The used ring, the
// part that the device writes, starts a cache line of its own.
// REQUIRES: start.IsAligned(kVirtqDescriptorsAlignment).
constexpr VirtqueueLayout LayOutVirtqueue(Gpa start, uint16_t size) {
  constexpr uint64_t kCacheLine = 64;
  VirtqueueLayout layout;
  layout.size = size;
  layout.descriptors = start;
  layout.available = start + layout.descriptors_bytes();
  const uint64_t end = layout.available.value() + layout.available_bytes();
  layout.used = Gpa((end + kCacheLine - 1) & ~(kCacheLine - 1));
  return layout;
}

// The bytes of that area, from a start that is a multiple of a cache line.
constexpr uint64_t VirtqueueBytes(uint16_t size) {
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), size);
  return layout.used.value() + layout.used_bytes();
}

// The driver's memory for indirect tables: `count` tables of `entries`
// descriptors, one behind the other. The device learns of a table by the
// descriptor that names it. Without any, every chain is in the queue's own
// table.
struct IndirectTables {
  Gpa start;
  uint16_t count = 0;
  uint16_t entries = 0;

  constexpr uint64_t table_bytes() const {
    return uint64_t{entries} * sizeof(VirtqDesc);
  }
  constexpr uint64_t bytes() const { return count * table_bytes(); }

  bool operator==(const IndirectTables&) const = default;
};

// Tables behind a queue that LayOutVirtqueue laid out, in a cache line of their
// own, away from what the device writes.
constexpr IndirectTables LayOutTables(const VirtqueueLayout& layout,
                                      uint16_t count, uint16_t entries) {
  constexpr uint64_t kCacheLine = 64;
  const uint64_t end = layout.used.value() + layout.used_bytes();
  return {.start = Gpa((end + kCacheLine - 1) & ~(kCacheLine - 1)),
          .count = count,
          .entries = entries};
}

// The bytes of a queue's area with the tables behind it.
constexpr uint64_t VirtqueueBytes(uint16_t size, uint16_t tables,
                                  uint16_t entries) {
  const IndirectTables behind =
      LayOutTables(LayOutVirtqueue(Gpa(0), size), tables, entries);
  return behind.start.value() + behind.bytes();
}

// The descriptor at `hva`, and one written there. Relaxed: the acquire or
// release on an idx orders these. A load reads every byte once.
// REQUIRES: `hva` is a multiple of 8.
VirtqDesc LoadDescriptorAt(const std::byte* hva);
void StoreDescriptorAt(std::byte* hva, const VirtqDesc& descriptor);
// A load from wherever: a table may lie "anywhere in memory" (§2.7.5.3).
VirtqDesc LoadUnalignedDescriptorAt(const std::byte* hva);

// InvalidArgument unless the size is a power of 2 up to kMaxVirtqueueSize and
// each part is aligned (§2.7, §2.7.5 to 2.7.8). Where the parts lie is for
// VirtqueueMemory::Map to check.
absl::Status ValidateLayout(const VirtqueueLayout& layout);

// The queue's memory as one half sees it. The other half may write any of it at
// any time, honest or not; so all of it is reached through atomics, and a value
// read is a copy that stays what it was. It cannot be removed from guest RAM
// while this lives.
class VirtqueueMemory {
 public:
  // InvalidArgument if the layout is not valid, or names the part that does not
  // lie within one region of `ram`. `ram` must outlive this.
  static absl::StatusOr<VirtqueueMemory> Map(const GuestRam& ram,
                                             const VirtqueueLayout& layout);

  uint16_t size() const { return size_; }
  // The slot of a free-running index.
  uint16_t slot(uint16_t idx) const { return idx & (size_ - 1); }

  std::atomic_ref<uint16_t> available_flags() const { return At(available_); }
  std::atomic_ref<uint16_t> available_idx() const {
    return At(available_ + offsetof(VirtqRingHeader, idx));
  }
  // REQUIRES: slot < size().
  std::atomic_ref<uint16_t> available_ring(uint16_t slot) const {
    return At(available_ + sizeof(VirtqRingHeader) + slot * sizeof(uint16_t));
  }
  // The used index that the driver waits for (§2.7.7).
  std::atomic_ref<uint16_t> used_event() const {
    return At(available_ + sizeof(VirtqRingHeader) + size_ * sizeof(uint16_t));
  }
  std::atomic_ref<uint16_t> used_flags() const { return At(used_); }
  std::atomic_ref<uint16_t> used_idx() const {
    return At(used_ + offsetof(VirtqRingHeader, idx));
  }

  // The available index that the device waits for (§2.7.10).
  std::atomic_ref<uint16_t> avail_event() const {
    return At(used_ + sizeof(VirtqRingHeader) + size_ * sizeof(VirtqUsedElem));
  }

  // Relaxed: the acquire or release on an idx orders these. Loads read every
  // byte once. REQUIRES: index or slot < size().
  VirtqDesc LoadDescriptor(uint16_t index) const;
  void StoreDescriptor(uint16_t index, const VirtqDesc& descriptor) const;
  VirtqUsedElem LoadUsed(uint16_t slot) const;
  void StoreUsed(uint16_t slot, VirtqUsedElem element) const;

  // Fills all three parts with zeroes.
  void Clear() const;

 private:
  VirtqueueMemory(uint16_t size, Translation descriptors, Translation available,
                  Translation used)
      : size_(size),
        descriptors_(descriptors.bytes().data()),
        available_(available.bytes().data()),
        used_(used.bytes().data()),
        pinned_{std::move(descriptors), std::move(available), std::move(used)} {
  }

  static std::atomic_ref<uint16_t> At(std::byte* hva) {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(hva));
  }

  uint16_t size_;
  std::byte* descriptors_;
  std::byte* available_;
  std::byte* used_;
  // The three parts, kept where they are.
  std::array<Translation, 3> pinned_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_
