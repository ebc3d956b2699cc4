#ifndef GUESTMM_WORKLOAD_BLOCKS_H_
#define GUESTMM_WORKLOAD_BLOCKS_H_

// Containers for the memory that a workload holds.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/gfp.h"
#include "guestmm/machine/vcpu.h"

namespace GUESTMM_EXPORT guestmm {

struct HeldBlock {
  Pfn pfn;
  Order order;
};

// Allocated and touched blocks, in allocation order.
class Blocks {
 public:
  // `stamp` determines the values that Touch writes.
  explicit Blocks(uint64_t stamp = 0) : stamp_(stamp) {}

  // Allocates, touches and keeps a block. False if the allocation fails.
  bool Take(Vcpu& vcpu, Order order, Gfp gfp = kGfpUser);

  // REQUIRES for both: not empty; index < size().
  void FreeOldest(Vcpu& vcpu);
  // Frees a block; the newest takes its place.
  void FreeAt(Vcpu& vcpu, size_t index);

  bool empty() const { return oldest_ == blocks_.size(); }
  size_t size() const { return blocks_.size() - oldest_; }
  // The size of the held blocks.
  uint64_t bytes() const { return bytes_; }
  // The pages touched so far, counted once per allocation.
  PageCount touched() const { return touched_; }

 private:
  void Free(Vcpu& vcpu, HeldBlock block);
  // Drops those before oldest_.
  void DropFreed();

  uint64_t stamp_;
  // Held from oldest_ on; those before it are freed.
  std::vector<HeldBlock> blocks_;
  size_t oldest_ = 0;
  uint64_t bytes_ = 0;
  PageCount touched_;
};

// A process's memory: mappings of a few blocks each. At exit the newest mapping
// is freed first, since Linux maps downwards from the top and unmaps upwards;
// within a mapping, blocks are freed in allocation order.
class AddressSpace {
 public:
  using Mapping = std::vector<HeldBlock>;

  // `stamp` as for Blocks.
  explicit AddressSpace(uint64_t stamp = 0) : stamp_(stamp) {}

  // Starts a new, empty mapping.
  void Map() { mappings_.emplace_back(); }
  // Allocates a block, touches it and adds it to the newest mapping. False if
  // the allocation fails. REQUIRES: there is a mapping.
  bool Populate(Vcpu& vcpu, Order order);
  // Makes a mapping of `bytes`, rounded up to pages, of blocks of orders 0
  // to 3. A mapping of kMostMixed is one huge page instead half of the time.
  // False if an allocation fails; blocks allocated before that stay mapped.
  // REQUIRES: bytes <= kMostMixed.
  static constexpr uint64_t kMostMixed = kPageblockOrder.bytes();
  bool MapMixed(Vcpu& vcpu, Random& random, uint64_t bytes);

  // REQUIRES: not empty.
  void UnmapNewest(Vcpu& vcpu) { Unmap(vcpu, mappings_.size() - 1); }
  // REQUIRES: index < mappings().size().
  void Unmap(Vcpu& vcpu, size_t index);

  bool empty() const { return mappings_.empty(); }
  const std::vector<Mapping>& mappings() const { return mappings_; }
  // As for Blocks.
  uint64_t bytes() const { return bytes_; }
  PageCount touched() const { return touched_; }

 private:
  uint64_t stamp_;
  std::vector<Mapping> mappings_;
  uint64_t bytes_ = 0;
  PageCount touched_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_BLOCKS_H_
