#ifndef GUESTMM_SIM_BURST_WORKLOAD_H_
#define GUESTMM_SIM_BURST_WORKLOAD_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/sim/workload.h"

namespace guestmm {

// Grows to a size, touching every page, and then frees everything: the guest of
// the v12 cover letter's density experiment.
//
// Each step allocates about 2 MiB, half of the time as one huge page and half
// as small blocks of orders 0 to 3, as a process does whose memory is partly
// backed by huge pages; or frees as much, in the order of allocation.
class BurstWorkload final : public Workload {
 public:
  // Grows to `bytes`, or as far as memory goes.
  BurstWorkload(uint64_t bytes, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;

  // True until the first step that frees.
  bool growing() const { return growing_; }
  // What it holds now, and the most that it held.
  uint64_t allocated_bytes() const { return allocated_bytes_; }
  uint64_t peak_bytes() const { return peak_bytes_; }
  // The first page that lost what was written to it, found when it is freed.
  std::optional<Pfn> corrupted() const { return corrupted_; }

 private:
  struct Block {
    Pfn pfn;
    Order order;
  };

  void Grow(Vcpu& vcpu);
  void Shrink(Vcpu& vcpu);
  bool AllocateBlock(Vcpu& vcpu, Order order);

  const uint64_t target_bytes_;
  const uint64_t stamp_;
  Random random_;
  bool growing_ = true;
  uint64_t allocated_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
  std::vector<Block> blocks_;
  size_t freed_ = 0;
  std::optional<Pfn> corrupted_;
};

}  // namespace guestmm

#endif  // GUESTMM_SIM_BURST_WORKLOAD_H_
