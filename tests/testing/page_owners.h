#ifndef GUESTMM_TESTS_TESTING_PAGE_OWNERS_H_
#define GUESTMM_TESTS_TESTING_PAGE_OWNERS_H_

// Pages owned by vCPUs on their own threads, for tests under ThreadSanitizer:
// owners write to their pages without synchronization other than the
// allocator's locks.

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"

namespace guestmm {

// The owner of each page. Deliberately not atomic.
class PageOwners {
 public:
  static constexpr int kNobody = -1;
  static constexpr int kReporter = 100;

  PageOwners(Pfn start, Pfn end)
      : start_(start), owner_((end - start).value(), kNobody) {}

  void Take(Pfn pfn, Order order, int owner) {
    Change(pfn, order, kNobody, owner);
  }
  void Give(Pfn pfn, Order order, int owner) {
    Change(pfn, order, owner, kNobody);
  }
  bool handed_out_twice() const { return handed_out_twice_.load(); }

 private:
  void Change(Pfn pfn, Order order, int from, int to) {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      int& page = owner_[(pfn - start_).value() + i];
      if (page != from) handed_out_twice_.store(true);
      page = to;
    }
  }

  const Pfn start_;
  std::vector<int> owner_;
  std::atomic<bool> handed_out_twice_{false};
};

struct Block {
  Pfn pfn;
  Order order;
};

// A block in transit from one vCPU to another.
class BlockExchange {
 public:
  std::optional<Block> Swap(const Block& block) {
    LockHolder hold(lock_);
    return std::exchange(block_, block);
  }
  std::optional<Block> Take() {
    LockHolder hold(lock_);
    return std::exchange(block_, std::nullopt);
  }

 private:
  Mutex lock_;
  std::optional<Block> block_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_PAGE_OWNERS_H_
