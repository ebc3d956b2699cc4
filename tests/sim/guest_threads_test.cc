// vCPUs, reporter and device on real threads: no page that is in use ever loses
// its contents, however much is reported meanwhile.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/sim/guest.h"

namespace guestmm {
namespace {

struct Block {
  Pfn pfn;
  Order order;
  uint64_t stamp;
};

// Allocates, writes, verifies and frees blocks of many orders at random. The
// pages that lost their contents.
int Churn(Vcpu& vcpu, uint64_t seed, int steps) {
  Random random(seed);
  std::vector<Block> blocks;
  int corrupted = 0;
  const auto release = [&](const Block& block) {
    if (vcpu.FindCorrupted(block.pfn, block.order, block.stamp)) ++corrupted;
    vcpu.Free(block.pfn, block.order);
  };
  for (int i = 0; i < steps; ++i) {
    if (random.OneIn(2) && blocks.size() < 20) {
      const Order order(random.OneIn(2) ? 9
                                        : static_cast<int>(random.Below(9)));
      if (const std::optional<Pfn> pfn = vcpu.Allocate(order)) {
        blocks.push_back({*pfn, order, random.Next()});
        vcpu.Touch(*pfn, order, blocks.back().stamp);
      }
    } else if (!blocks.empty()) {
      std::swap(blocks[random.Below(blocks.size())], blocks.back());
      release(blocks.back());
      blocks.pop_back();
    }
  }
  for (const Block& block : blocks) release(block);
  return corrupted;
}

TEST(GuestThreadsTest, ContentsSurviveReporting) {
  constexpr int kVcpus = 3;
  constexpr uint64_t kSeed = 20190812;
  SCOPED_TRACE(kSeed);
  const auto guest =
      Guest::Create({.memory = Guest::MemoryMap(192 * kMiB),
                     .vcpus = kVcpus,
                     .make_policy =
                         [] {
                           // Eager, so that much is in flight at any time.
                           return std::make_unique<V12Policy>(
                               V12Options{.threshold = 2, .capacity = 4});
                         }})
          .value();
  std::atomic<int> corrupted = 0;
  std::vector<std::thread> threads;
  for (int id = 0; id < kVcpus; ++id) {
    threads.emplace_back([&, id] {
      corrupted +=
          Churn(guest->vcpu(id), kSeed + static_cast<uint64_t>(id), 400);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(corrupted, 0);
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_GT(guest->reporter()->counters().reports, 0u);
  EXPECT_EQ(guest->device()->counters().skipped(), 0u);
  EXPECT_EQ(guest->allocator().Counts().allocated(), PageCount(1));  // the ring
}

}  // namespace
}  // namespace guestmm
