// As memory_hotplug_threads_test.cc, for a minute.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include "tests/testing/hotplug_churn.h"

namespace guestmm {
namespace {

TEST(MemoryHotplugLongTest, MemoryComesAndGoesForAMinute) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::minutes(1);
  std::atomic<bool> over{false};
  const auto go_on = [&](uint64_t step) {
    if (step % 256 == 0 && std::chrono::steady_clock::now() >= deadline) {
      over.store(true, std::memory_order_relaxed);
    }
    return !over.load(std::memory_order_relaxed);
  };
  constexpr HotplugChurnCounts kMuch = {.onlined = 1000,
                                        .offlined = 1000,
                                        .removed = 200,
                                        .refused = 200,
                                        .batches = 200};
  EXPECT_TRUE(
      RunHotplugChurn({.go_on = go_on, .at_least = kMuch}).Reaches(kMuch));
}

}  // namespace
}  // namespace guestmm
