#ifndef GUESTMM_TESTS_TESTING_DMA_DEVICE_H_
#define GUESTMM_TESTS_TESTING_DMA_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// A directly assigned device: it writes by DMA to the pages that the guest's
// driver mapped for it, whenever it likes, and knows what it wrote.
//
//   DmaDevice device(guest->ram());
//   device.Map(pfn, order);
//   std::thread thread([&] { device.Run(Random(1), stop); });
//   ...
//   EXPECT_EQ(device.FirstLost(), std::nullopt);
//
// Safe from any thread. Takes 1/16 of the memory that it may write.
class DmaDevice {
 public:
  // `ram` must outlive this.
  explicit DmaDevice(const GuestRam& ram) : ram_(ram) {}
  DmaDevice(const DmaDevice&) = delete;
  DmaDevice& operator=(const DmaDevice&) = delete;

  // Lets the device write to a block, and fills all of it. As VFIO does, it
  // pins the block in guest RAM until Unmap.
  // REQUIRES: the block is in guest RAM, and stays the driver's until Unmap:
  // no one else writes there (CHECKed: the former).
  void Map(Pfn pfn, Order order);
  // The device writes there no more. REQUIRES: a block at `pfn` is mapped
  // (CHECKed).
  void Unmap(Pfn pfn);

  // Writes up to 16 times, to lines of 64 bytes anywhere in the blocks, new
  // bytes, of which none is zero. Nothing if no block is mapped.
  void WriteSome(Random& random);
  // Writes until `stop`.
  void Run(Random random, const std::atomic<bool>& stop);

  // The first byte, by address, that is not what was written there last; none
  // if all are.
  std::optional<Gpa> FirstLost() const;

 private:
  // What was written last to each line is made of its address and its stamp.
  struct Block {
    Pfn pfn;
    Translation memory;
    std::vector<uint32_t> stamps;
  };

  void Write(Block& block, uint64_t line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestRam& ram_;
  mutable Mutex mutex_;
  // By ascending pfn.
  std::vector<Block> blocks_ ABSL_GUARDED_BY(mutex_);
  uint32_t last_stamp_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_DMA_DEVICE_H_
