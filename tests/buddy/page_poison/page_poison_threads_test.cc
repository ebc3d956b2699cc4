// Fills, checks and pins blocks on several threads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "tests/buddy/page_poison/page_poison_testing.h"

namespace guestmm::page_poison_threads_test {
namespace {

using ::testing::IsEmpty;
using ::testing::TestWithParam;
using ::testing::Values;

// Blocks in transit from one thread to another.
class Mailbox {
 public:
  void Put(Pfn pfn, Order order) {
    LockHolder hold(lock_);
    blocks_.emplace_back(pfn, order);
  }
  std::optional<std::pair<Pfn, Order>> Take() {
    LockHolder hold(lock_);
    if (blocks_.empty()) return std::nullopt;
    const std::pair<Pfn, Order> block = blocks_.back();
    blocks_.pop_back();
    return block;
  }

 private:
  Mutex lock_;
  std::vector<std::pair<Pfn, Order>> blocks_ ABSL_GUARDED_BY(lock_);
};

// vCPUs write to their blocks and pass every fourth one to a device, which
// writes to it under a pin, even after its owner freed it.
using PagePoisonThreadsTest = TestWithParam<PagePoisonMode>;
INSTANTIATE_TEST_SUITE_P(Modes, PagePoisonThreadsTest,
                         Values(PagePoisonMode::kOff, PagePoisonMode::kPoison));

TEST_P(PagePoisonThreadsTest,
       NoBlockIsFilledWhileItIsUsedNorHandedOutUnfilled) {
  constexpr int kCpus = 3;
  constexpr int kDevice = kCpus - 1;
  constexpr int kSteps = 5000;
  PoisonWorld world(
      {.mode = GetParam()}, {512},
      {.cpus = kCpus, .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 9}});
  Mailbox to_device;
  std::atomic<int> running{kDevice};

  const auto vcpu = [&](int cpu) {
    Random random(static_cast<uint64_t>(cpu) + 1);
    for (int i = 0; i < kSteps; ++i) {
      const Order order(random.OneIn(4) ? static_cast<int>(random.Below(6))
                                        : 0);
      const auto pfn = world.allocator().Allocate(cpu, order);
      if (!pfn) continue;
      const auto value = static_cast<uint8_t>(random.Next());
      world.Write(*pfn, order, value);
      const bool kept = world.Holds(*pfn, order, value);
      EXPECT_TRUE(kept) << *pfn;
      if (random.OneIn(4)) {
        world.allocator().Pin(*pfn);
        to_device.Put(*pfn, order);
      }
      world.Free(*pfn, order, cpu);
    }
    running.fetch_sub(1);
  };
  const auto device = [&] {
    while (true) {
      const bool last = running.load() == 0;
      const auto block = to_device.Take();
      if (block) {
        world.Write(block->first, block->second, 7);
        world.allocator().Unpin(kDevice, block->first);
      } else if (last) {
        return;
      } else {
        std::this_thread::yield();
      }
    }
  };
  std::vector<std::thread> threads;
  for (int cpu = 0; cpu < kDevice; ++cpu) threads.emplace_back(vcpu, cpu);
  threads.emplace_back(device);
  for (std::thread& thread : threads) thread.join();

  EXPECT_THAT(world.poison().corruptions(), IsEmpty());
  for (Pfn pfn(0); pfn < Pfn(512); pfn += PageCount(1)) {
    if (GetParam() == PagePoisonMode::kOff) break;
    EXPECT_TRUE(world.Holds(pfn, kPage, kPoison)) << pfn;
  }
  EXPECT_EQ(world.allocator().CheckInvariants(), absl::OkStatus());
}

// Only the pin tells the owner that the device has finished; their writes must
// not race (found by ThreadSanitizer).
TEST_P(PagePoisonThreadsTest, WhatADeviceWroteComesBeforeTheFreeThatSeesNoPin) {
  for (const Order order : {kPage, kHuge}) {
    PoisonWorld world({.mode = GetParam()});
    const Pfn pfn = world.Allocate(order);
    world.allocator().Pin(pfn);
    std::thread device([&] {
      world.Write(pfn, order, 7);
      world.allocator().Unpin(/*cpu=*/0, pfn);
    });
    while (world.allocator().pages().pins(pfn) > 0) std::this_thread::yield();
    world.Free(pfn, order);
    EXPECT_EQ(world.Allocate(order), pfn);
    world.Write(pfn, order, 8);
    device.join();
    EXPECT_TRUE(world.Holds(pfn, order, 8));
    EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  }
}

TEST(PagePoisonTest, CorruptionsFoundAtOnceAreAllCounted) {
  constexpr int kCpus = 3;
  constexpr int kBlocks = 100;
  PoisonWorld world(kPoisoned, {1024}, {.cpus = kCpus});
  for (Pfn pfn(0); pfn < Pfn(1024); pfn += PageCount(1)) world.At(pfn)[8] = 1;
  std::vector<std::thread> threads;
  for (int cpu = 0; cpu < kCpus; ++cpu) {
    threads.emplace_back([&world, cpu] {
      for (int i = 0; i < kBlocks; ++i) world.Allocate(Order(1), cpu);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(world.poison().corrupted_pages(), 2u * kCpus * kBlocks);
  EXPECT_EQ(world.poison().corruptions().size(), PagePoison::kMostRemembered);
}

}  // namespace
}  // namespace guestmm::page_poison_threads_test
