#ifndef GUESTMM_TESTS_VIRTIO_DEVICE_HOSTILE_QUEUE_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_DEVICE_HOSTILE_QUEUE_TESTING_H_

// A guest that writes anything into a balloon's queue, from a fuzzer's input.

#include <cstdint>

#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/virtio/wire/virtqueue.h"

namespace guestmm {

// An action of the guest or the host.
struct HostileStep {
  uint8_t what;
  uint8_t queue;
  uint8_t a;
  uint8_t odd;
  uint16_t b;
};
static_assert(sizeof(HostileStep) == 6);

// The guest side of one queue: mostly follows the protocol, and sometimes not.
class HostileQueue {
 public:
  HostileQueue(const GuestRam& ram, BalloonQueue queue,
               const VirtqueueLayout& layout)
      : queue_(queue),
        layout_(layout),
        memory_(*VirtqueueMemory::Map(ram, layout)) {}

  void Do(const HostileStep& step) {
    const uint16_t slot = memory_.slot(step.a);
    // Rarely, since it breaks the queue.
    const bool forges = step.what >= 0xf0;
    switch (step.what % 8) {
      case 0:
      case 1:
        memory_.StoreDescriptor(slot, Decode(step));
        break;
      case 2:
      case 3:
        memory_.available_ring(memory_.slot(available_idx_)).store(slot);
        memory_.available_idx().store(++available_idx_);
        break;
      case 4:
        memory_.available_ring(slot).store(forges ? step.b
                                                  : memory_.slot(step.b));
        break;
      case 5:
        available_idx_ =
            forges ? step.b : static_cast<uint16_t>(available_idx_ + 1);
        memory_.available_idx().store(available_idx_);
        break;
      default:
        memory_.available_flags().store(step.b);
        break;
    }
  }
  const VirtqueueMemory& memory() const { return memory_; }
  const VirtqueueLayout& layout() const { return layout_; }

 private:
  // Mostly good: the page is 7 bits of b, the length the next 3; the others say
  // what is wrong with it, and where it continues.
  VirtqDesc Decode(const HostileStep& step) const {
    const bool is_range =
        queue_ == BalloonQueue::kReporting ||
        (queue_ == BalloonQueue::kFreePage && step.odd % 2 == 0);
    VirtqDesc descriptor = {
        .addr = (step.b & 0x7f) * kPageSize,
        .len = static_cast<uint32_t>(((step.b >> 7) % 8 + 1) * kPageSize),
        .flags = kVirtqDescWrite,
        .next = static_cast<uint16_t>(step.a + 1 + (step.what >> 6)),
    };
    if (!is_range) {
      // An array of one or more words, some of which Poke writes.
      descriptor.addr += step.odd / 8 * 4;
      descriptor.len =
          ((step.b >> 7) % 8 + 1) * (queue_ == BalloonQueue::kStats ? 10 : 4);
      descriptor.flags = 0;
    }
    if ((step.what & 0x08) != 0) descriptor.flags |= kVirtqDescNext;
    if (step.what < 0xf0) descriptor.next = memory_.slot(descriptor.next);
    switch ((step.b >> 10) % 16) {
      case 1:
        descriptor.addr += 16;
        break;
      case 2:
        descriptor.len -= 1;
        break;
      case 3:
        descriptor.len = 0;
        break;
      case 4:
        descriptor.flags ^= kVirtqDescWrite;
        break;
      case 5:
        descriptor.flags |= kVirtqDescIndirect;
        break;
      case 6:
        descriptor.addr = ~uint64_t{0} << (step.a % 64);
        break;
      case 7:
        // An indirect table within the queue's own descriptor table.
        descriptor.addr = layout_.descriptors.value() +
                          memory_.slot(step.b) * sizeof(VirtqDesc);
        descriptor.len = (step.b >> 7) % 8 * sizeof(VirtqDesc);
        descriptor.flags = kVirtqDescIndirect;
        break;
      case 8:
        descriptor.len = ~uint32_t{0} >> (step.a % 32);
        break;
      default:
        break;
    }
    return descriptor;
  }

  const BalloonQueue queue_;
  const VirtqueueLayout layout_;
  const VirtqueueMemory memory_;
  uint16_t available_idx_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_DEVICE_HOSTILE_QUEUE_TESTING_H_
