// Isolated memory that returns while a request looks for memory: no attempt and
// no wait misses it.

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::isolated_return_test {
namespace {

// Notified of each block that is freed, and has the test do the rest.
class WakeHook final : public FreeBlockObserver {
 public:
  std::function<void()> on_wake = [] {};

  bool OnBlockFreed(Zone&, Pfn, Order) override { return true; }
  void Wake() override { on_wake(); }
};

// The block comes back when an attempt has failed and the wait has not begun.
TEST(IsolatedReturnTest, ARequestTriesAgainIfTheBlockCameBackAfterAnAttempt) {
  VirtualTime time(1);
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 17)},
                     .max_order = Order(2),
                     .section_order = Order(2),
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 4},
                     .wait_for_isolated = &time});
  std::optional<IsolatedBlock> block = Isolate(*allocator, Pfn(0));
  const std::vector<Pfn> pages = TakeAll(*allocator, 0, Order(0), kGfpAtomic);
  ASSERT_EQ(pages.size(), 13);
  // Each attempt begins with draining the per-CPU lists, and wakes the observer
  // after it, if they held a page.
  allocator->Free(0, pages[0], Order(0));
  WakeHook hook;
  hook.on_wake = [&] {
    if (block) Return(*std::exchange(block, std::nullopt));
  };
  allocator->SetObserver(&hook, Order(0));
  EXPECT_EQ(allocator->Allocate(0, Order(2)), Pfn(0));
  EXPECT_FALSE(block.has_value());
  EXPECT_EQ(time.Now(), Nanoseconds(0));
  allocator->SetObserver(nullptr);
}

}  // namespace
}  // namespace guestmm::isolated_return_test
