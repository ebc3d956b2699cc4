#ifndef GUESTMM_BENCH_BUDDY_CHURN_H_
#define GUESTMM_BENCH_BUDDY_CHURN_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bench/buddy/bench_allocators.h"
#include "guestmm/base/random.h"

namespace guestmm::bench {

// About half of the memory, in blocks of all orders up to 9; call Step
// repeatedly.
template <typename Allocator>
class Churn {
 public:
  Churn() {
    for (uint64_t i = 0; i < kPages; ++i) Step();
  }

  void Step() {
    Step([this](int order) { return allocator_->Allocate(0, order); });
  }
  // Calls `allocate(order)` when it is an allocation's turn.
  template <typename Allocate>
  void Step(Allocate allocate) {
    const uint64_t random = random_.Next();
    if (used_ < kPages / 2) {
      const int order = std::min(std::countr_zero(random), 9);
      const uint64_t pfn = allocate(order);
      if (pfn == kNoPage) return;
      used_ += uint64_t{1} << order;
      live_.push_back({static_cast<uint32_t>(pfn), order});
    } else {
      Block& block =
          live_[static_cast<size_t>(((random >> 32) * live_.size()) >> 32)];
      allocator_->Free(0, block.pfn, block.order);
      used_ -= uint64_t{1} << block.order;
      block = live_.back();
      live_.pop_back();
    }
  }

  void FreeAll() {
    for (const Block& block : live_) {
      allocator_->Free(0, block.pfn, block.order);
    }
    live_.clear();
    used_ = 0;
  }
  Allocator& allocator() { return *allocator_; }

 private:
  struct Block {
    uint32_t pfn;
    int order;
  };

  Warm<Allocator> allocator_;
  Random random_{1};
  uint64_t used_ = 0;
  std::vector<Block> live_;
};

}  // namespace guestmm::bench

#endif  // GUESTMM_BENCH_BUDDY_CHURN_H_
