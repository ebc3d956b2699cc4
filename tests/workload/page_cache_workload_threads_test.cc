// A page cache reads on one vCPU while others reclaim its pages.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "guestmm/machine/real/guest.h"
#include "guestmm/workload/churn_workload.h"
#include "guestmm/workload/page_cache_workload.h"

namespace guestmm::page_cache_workload_threads_test {
namespace {

TEST(PageCacheWorkloadThreadsTest, GivesBackWhileItReads) {
  constexpr uint64_t kBytes = 64 * kMiB;
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(kBytes), .vcpus = 3}).value();
  PageCacheWorkload cache({}, guest->allocator(), guest->all_vcpus());
  // Until memory is full.
  while (cache.Step(guest->vcpu(0)) < std::chrono::milliseconds(10)) {
  }

  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) cache.Step(guest->vcpu(0));
  });
  std::vector<std::thread> others;
  std::atomic<uint64_t> held{0};
  for (int id = 1; id < 3; ++id) {
    others.emplace_back([&, id] {
      ChurnWorkload churn({.bytes = kBytes / 3, .max_order = Order(3)},
                          static_cast<uint64_t>(id));
      for (int i = 0; i < 10000; ++i) churn.Step(guest->vcpu(id));
      held += churn.allocated_bytes();
    });
  }
  for (std::thread& other : others) other.join();
  stop = true;
  reader.join();

  EXPECT_GT(cache.reclaimed(), PageCount(0));
  EXPECT_EQ(guest->allocator().Counts().allocated().bytes(),
            cache.cached_bytes() + held);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace guestmm::page_cache_workload_threads_test
