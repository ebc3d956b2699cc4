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

// A directly assigned device: writes by DMA, at any time, to the pages that the
// guest's driver mapped for it, and remembers what it wrote.
//
//   DmaDevice device(guest->ram());
//   device.Map(pfn, order);
//   std::thread thread([&] { device.Run(Random(1), stop); });
//   ...
//   EXPECT_EQ(device.FirstLost(), std::nullopt);
//
// Thread-safe. Takes 1/16 of the size of the mapped memory.
class DmaDevice {
 public:
  // `ram` must outlive this.
  explicit DmaDevice(const GuestRam& ram) : ram_(ram) {}
  DmaDevice(const DmaDevice&) = delete;
  DmaDevice& operator=(const DmaDevice&) = delete;

  // Allows the device to write to a block, and fills the block. Pins it in
  // guest RAM until Unmap, as VFIO does. REQUIRES: the block is in guest RAM
  // (CHECKed), and nothing else writes there until Unmap.
  void Map(Pfn pfn, Order order);
  // Ends the device's access to a block. REQUIRES: a block at `pfn` is mapped
  // (CHECKed).
  void Unmap(Pfn pfn);

  // Writes new, nonzero bytes to up to 16 random lines of 64 bytes in the
  // blocks. No effect if no block is mapped.
  void WriteSome(Random& random);
  // Writes until `stop`.
  void Run(Random random, const std::atomic<bool>& stop);

  // The first byte, by address, that is not what was last written there;
  // nullopt if there is none.
  std::optional<Gpa> FirstLost() const;

 private:
  // The contents of a line are derived from its address and its stamp.
  struct Block {
    Pfn pfn;
    Translation memory;
    std::vector<uint32_t> stamps;
  };

  void Write(Block& block, uint64_t line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestRam& ram_;
  mutable Mutex mutex_;
  // In ascending order of pfn.
  std::vector<Block> blocks_ ABSL_GUARDED_BY(mutex_);
  uint32_t last_stamp_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_DMA_DEVICE_H_
