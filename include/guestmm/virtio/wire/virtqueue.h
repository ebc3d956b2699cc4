#ifndef GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_
#define GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_

// A split virtqueue in guest RAM (virtio 1.3 §2.7): its layout, and the access
// to it that both sides use. DriverQueue and DeviceQueue implement the
// protocol.
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
//                             a chain is offered by    its head is returned
//                             here its head
//
// Both idx are free-running 16-bit counters; modulo N they are a slot.
// (available.idx - used.idx) mod 2^16 chains are with the device, at most N.
//
// With INDIRECT_DESC a descriptor may refer to a table of descriptors anywhere
// in guest RAM. With EVENT_IDX used_event and avail_event replace the flags:
// each is the index of the other side's ring at which its writer wants a
// notification.

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace GUESTMM_EXPORT guestmm {

// The wire format is little-endian and accessed in place.
static_assert(std::endian::native == std::endian::little);

// Flags of a descriptor (§2.7.5).
inline constexpr uint16_t kVirtqDescNext = 1;      // continues at `next`
inline constexpr uint16_t kVirtqDescWrite = 2;     // device-writable
inline constexpr uint16_t kVirtqDescIndirect = 4;  // a table of descriptors
// available.flags: do not notify the driver of used chains (§2.7.6).
inline constexpr uint16_t kVirtqAvailNoInterrupt = 1;
// used.flags: do not notify the device of available chains (§2.7.8).
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

// The start of both the available and the used ring.
struct VirtqRingHeader {
  uint16_t flags;
  uint16_t idx;
};
static_assert(sizeof(VirtqRingHeader) == 4);
static_assert(offsetof(VirtqRingHeader, idx) == 2);

// struct virtq_used_elem: a returned chain.
struct VirtqUsedElem {
  uint32_t id;   // the chain's head
  uint32_t len;  // bytes written by the device
};
static_assert(sizeof(VirtqUsedElem) == 8);
static_assert(offsetof(VirtqUsedElem, len) == 4);

// Feature bits of a queue (§6).
inline constexpr uint64_t kVirtioFIndirectDesc = uint64_t{1} << 28;
inline constexpr uint64_t kVirtioFEventIdx = uint64_t{1} << 29;

// The negotiated features of a queue.
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

// True if a side has to notify the other after its index advanced by `moved` to
// `idx`, and the other asked for a notification at entry `event`: if `event` is
// one of idx - moved, ..., idx - 1 (§2.7.7.2, §2.7.10.1).
constexpr bool NeedsEvent(uint16_t event, uint16_t idx, uint64_t moved) {
  return static_cast<uint16_t>(idx - event - 1) < moved;
}
static_assert(NeedsEvent(0, 1, 1), "the first entry is that of index 0");
static_assert(!NeedsEvent(1, 1, 1) && !NeedsEvent(0xffff, 1, 1));
static_assert(NeedsEvent(0xffff, 1, 2) && NeedsEvent(0xffff, 0, 1));
static_assert(!NeedsEvent(5, 5, 0xffff) && NeedsEvent(5, 5, 0x10000),
              "all the way round it passes every index");

// The largest queue: half the range of a 16-bit index.
inline constexpr uint16_t kMaxVirtqueueSize = 32768;

// True if a queue can have `size` descriptors (§2.7).
constexpr bool IsVirtqueueSize(uint32_t size) {
  return std::has_single_bit(size) && size <= kMaxVirtqueueSize;
}

inline constexpr uint64_t kVirtqDescriptorsAlignment = 16;
inline constexpr uint64_t kVirtqAvailableAlignment = 2;
inline constexpr uint64_t kVirtqUsedAlignment = 4;

// The location of a queue of `size` descriptors.
struct VirtqueueLayout {
  uint16_t size = 0;
  Gpa descriptors;
  Gpa available;
  Gpa used;

  constexpr uint64_t descriptors_bytes() const {
    return uint64_t{size} * sizeof(VirtqDesc);
  }
  // Each ring ends with an event index for the other side, whether or not
  // EVENT_IDX is negotiated.
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

// All three parts in one area, in the order of the picture. The used ring, the
// only part that the device writes, starts on a cache line of its own.
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

// The size of that area in bytes, if `start` is a multiple of a cache line.
constexpr uint64_t VirtqueueBytes(uint16_t size) {
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), size);
  return layout.used.value() + layout.used_bytes();
}

// The driver's memory for indirect tables: `count` consecutive tables of
// `entries` descriptors. The device learns of a table from the descriptor that
// refers to it. If there are none, every chain is in the queue's own descriptor
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

// Tables behind a queue laid out by LayOutVirtqueue, starting on a cache line
// of their own, apart from the memory that the device writes.
constexpr IndirectTables LayOutTables(const VirtqueueLayout& layout,
                                      uint16_t count, uint16_t entries) {
  constexpr uint64_t kCacheLine = 64;
  const uint64_t end = layout.used.value() + layout.used_bytes();
  return {.start = Gpa((end + kCacheLine - 1) & ~(kCacheLine - 1)),
          .count = count,
          .entries = entries};
}

// The size in bytes of a queue's area including the tables behind it.
constexpr uint64_t VirtqueueBytes(uint16_t size, uint16_t tables,
                                  uint16_t entries) {
  const IndirectTables behind =
      LayOutTables(LayOutVirtqueue(Gpa(0), size), tables, entries);
  return behind.start.value() + behind.bytes();
}

// Load or store the descriptor at `hva`, with relaxed ordering: the acquire or
// release of an idx orders them. A load reads each byte once. REQUIRES: `hva`
// is a multiple of 8.
VirtqDesc LoadDescriptorAt(const std::byte* hva);
void StoreDescriptorAt(std::byte* hva, const VirtqDesc& descriptor);
// As LoadDescriptorAt, at any alignment: a table may lie "anywhere in memory"
// (§2.7.5.3).
VirtqDesc LoadUnalignedDescriptorAt(const std::byte* hva);

// InvalidArgument unless the size is a power of 2 up to kMaxVirtqueueSize and
// each part is aligned (§2.7, §2.7.5 to 2.7.8). Does not check that the parts
// are in guest RAM: see VirtqueueMemory::Map.
absl::Status ValidateLayout(const VirtqueueLayout& layout);

// The queue's memory, as either side accesses it. The other side may write to
// any of it at any time, whether it should or not. So all accesses are atomic,
// and a loaded value is a copy that cannot change. Pins its guest RAM, which
// cannot be removed during its lifetime.
class VirtqueueMemory {
 public:
  // InvalidArgument if the layout is not valid, or if a part, which is named,
  // does not lie within one region of `ram`. `ram` must outlive the result.
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
  // The used index at which the driver wants a notification (§2.7.7).
  std::atomic_ref<uint16_t> used_event() const {
    return At(available_ + sizeof(VirtqRingHeader) + size_ * sizeof(uint16_t));
  }
  std::atomic_ref<uint16_t> used_flags() const { return At(used_); }
  std::atomic_ref<uint16_t> used_idx() const {
    return At(used_ + offsetof(VirtqRingHeader, idx));
  }

  // The available index at which the device wants a notification (§2.7.10).
  std::atomic_ref<uint16_t> avail_event() const {
    return At(used_ + sizeof(VirtqRingHeader) + size_ * sizeof(VirtqUsedElem));
  }

  // Relaxed ordering: the acquire or release of an idx orders these. Loads read
  // each byte once. REQUIRES: index or slot < size().
  VirtqDesc LoadDescriptor(uint16_t index) const;
  void StoreDescriptor(uint16_t index, const VirtqDesc& descriptor) const;
  VirtqUsedElem LoadUsed(uint16_t slot) const;
  void StoreUsed(uint16_t slot, VirtqUsedElem element) const;

  // Zeroes all three parts.
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
  // Pins the three parts.
  std::array<Translation, 3> pinned_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_VIRTQUEUE_H_
