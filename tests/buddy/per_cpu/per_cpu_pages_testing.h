#ifndef GUESTMM_TESTS_BUDDY_PER_CPU_PER_CPU_PAGES_TESTING_H_
#define GUESTMM_TESTS_BUDDY_PER_CPU_PER_CPU_PAGES_TESTING_H_

// What the tests of per-CPU lists share.

#include <cstdint>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"

namespace guestmm {

constexpr PageCount Mib(uint64_t mib) {
  return PageCount(mib * kMiB / kPageSize);
}

// Records the blocks that reach the zone, in order.
class FreedBlocks final : public FreeBlockObserver {
 public:
  // `wants_wake`: what it answers to each of them.
  explicit FreedBlocks(bool wants_wake) : wants_wake_(wants_wake) {}

  bool OnBlockFreed(Zone&, Pfn pfn, Order) override {
    pfns_.push_back(pfn.value());
    return wants_wake_;
  }
  void Wake() override {}

  const std::vector<uint64_t>& pfns() const { return pfns_; }

 private:
  const bool wants_wake_;
  std::vector<uint64_t> pfns_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_BUDDY_PER_CPU_PER_CPU_PAGES_TESTING_H_
