// Hotplug while vCPUs and a reporter run.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "tests/testing/hotplug_churn.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::memory_hotplug_threads_test {
namespace {

constexpr HotplugChurnCounts kMuch = {.onlined = 100,
                                      .offlined = 100,
                                      .removed = 20,
                                      .refused = 20,
                                      .batches = 20};

TEST(MemoryHotplugThreadsTest, MemoryComesAndGoesWhileVcpusAndReporterRun) {
  const HotplugChurnCounts counts =
      RunHotplugChurn({.go_on = [](uint64_t step) { return step < 10'000; },
                       .at_least = kMuch});
  EXPECT_TRUE(counts.Reaches(kMuch));
}

TEST(MemoryHotplugThreadsTest, WithTheListsOf6_1) {
  const HotplugChurnCounts counts =
      RunHotplugChurn({.go_on = [](uint64_t step) { return step < 10'000; },
                       .at_least = kMuch,
                       .per_cpu_lists = KernelVersion::kV6_1,
                       .seed = 2});
  EXPECT_TRUE(counts.Reaches(kMuch));
}

// Of two operations that start together, either one is refused as in progress,
// or both complete; no operation is applied twice.
TEST(MemoryHotplugThreadsTest, OperationsDoNotMixUp) {
  const auto allocator = MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                                        .hotplug_end = Pfn(128),
                                        .max_order = Order(4),
                                        .section_order = Order(4),
                                        .min_free_kbytes = 0});
  MemoryHotplug hotplug(*allocator);
  const PfnRange range = {Pfn(64), Pfn(80)};
  std::atomic<int> added{0};
  std::atomic<int> removed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (int step = 0; step < 2000; ++step) {
        if (hotplug.Add(range, 0).ok()) added.fetch_add(1);
        static_cast<void>(hotplug.Online(range, ZoneType::kMovable));
        static_cast<void>(hotplug.Offline(range));
        if (hotplug.Remove(range).ok()) removed.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (hotplug.StateOf(range.start) == "online") {
    EXPECT_EQ(hotplug.Offline(range), absl::OkStatus());
  }
  if (hotplug.StateOf(range.start) == "offline") {
    EXPECT_EQ(hotplug.Remove(range), absl::OkStatus());
    removed.fetch_add(1);
  }
  EXPECT_EQ(added.load(), removed.load());
  EXPECT_GT(added.load(), 0);
  EXPECT_EQ(allocator->Counts().free, PageCount(64));
  ExpectInvariants(*allocator);
}

}  // namespace
}  // namespace guestmm::memory_hotplug_threads_test
