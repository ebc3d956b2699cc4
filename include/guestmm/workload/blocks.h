#ifndef GUESTMM_WORKLOAD_BLOCKS_H_
#define GUESTMM_WORKLOAD_BLOCKS_H_

// What workloads keep their memory in.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/gfp.h"
#include "guestmm/machine/vcpu.h"

namespace guestmm {

struct HeldBlock {
  Pfn pfn;
  Order order;
};

// Blocks that were allocated and touched, in the order in which they came.
class Blocks {
 public:
  // What Touch writes is made of `stamp`.
  explicit Blocks(uint64_t stamp = 0) : stamp_(stamp) {}

  // Allocates a block, touches and keeps it. False if memory is out.
  bool Take(Vcpu& vcpu, Order order, Gfp gfp = kGfpUser);

  // REQUIRES of these: not empty; index < size().
  void FreeOldest(Vcpu& vcpu);
  // The newest takes the place of the one that went.
  void FreeAt(Vcpu& vcpu, size_t index);

  bool empty() const { return blocks_.empty(); }
  size_t size() const { return blocks_.size(); }
  // What it holds.
  uint64_t bytes() const { return bytes_; }
  // What it touched so far, once for each time it was taken.
  PageCount touched() const { return touched_; }

 private:
  void Free(Vcpu& vcpu, HeldBlock block);

  uint64_t stamp_;
  std::deque<HeldBlock> blocks_;
  uint64_t bytes_ = 0;
  PageCount touched_;
};

// A process's memory: mappings, each a few blocks. What was mapped last goes
// first at its exit, since Linux maps downwards from the top and unmaps
// upwards; within a mapping, pages go in the order in which they came.
class AddressSpace {
 public:
  using Mapping = std::vector<HeldBlock>;

  // As Blocks.
  explicit AddressSpace(uint64_t stamp = 0) : stamp_(stamp) {}

  // Begins a mapping.
  void Map() { mappings_.emplace_back(); }
  // Allocates a block, touches it and adds it to the newest mapping. False if
  // memory is out. REQUIRES: there is a mapping.
  bool Populate(Vcpu& vcpu, Order order);
  // Makes a mapping of `bytes`, rounded up to pages: of small blocks, of orders
  // 0 to 3, or half of the time, if it is the most, of one huge page. False if
  // memory was out first; what it had until then stays mapped. REQUIRES: bytes
  // <= kMostMixed.
  static constexpr uint64_t kMostMixed = kPageblockOrder.bytes();
  bool MapMixed(Vcpu& vcpu, Random& random, uint64_t bytes);

  // REQUIRES: not empty.
  void UnmapNewest(Vcpu& vcpu) { Unmap(vcpu, mappings_.size() - 1); }
  // REQUIRES: index < mappings().size().
  void Unmap(Vcpu& vcpu, size_t index);

  bool empty() const { return mappings_.empty(); }
  const std::vector<Mapping>& mappings() const { return mappings_; }
  // As Blocks.
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
