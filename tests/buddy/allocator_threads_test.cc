// Several vCPUs on their own threads, and a thread that drains and isolates;
// checks the state afterwards. Also for ThreadSanitizer: owners write to their
// pages without synchronization other than the allocator's locks.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_allocator.h"
#include "tests/testing/page_owners.h"

namespace guestmm::allocator_threads_test {
namespace {

constexpr uint64_t kPages = 1024;
constexpr int kCpus = 3;
constexpr int kSteps = 100'000;

std::unique_ptr<PageAllocator> MakeAllocator() {
  return PageAllocator::Create(
             {.memory = {{Pfn(0), Pfn(kPages)}},
              .cpus = kCpus,
              .min_free_kbytes = 16,
              .per_cpu_limits = PerCpuLimits{.batch = 7, .high = 20}})
      .value();
}

// Acts as a program on `cpu`: allocates blocks, uses them, and frees blocks
// that it allocated or was handed by the other vCPU.
void RunVcpu(PageAllocator& allocator, PageOwners& owners,
             BlockExchange& exchange, int cpu) {
  Random random(static_cast<uint64_t>(cpu) + 1);
  std::vector<Block> live;
  for (int i = 0; i < kSteps; ++i) {
    if (random.OneIn(2) && live.size() < 40) {
      const Order order(random.OneIn(4) ? static_cast<int>(random.Below(6))
                                        : 0);
      constexpr std::array<Gfp, 3> kGfps = {kGfpUser, kGfpKernel,
                                            kGfpReclaimable};
      const std::optional<Pfn> pfn =
          allocator.Allocate(cpu, order, kGfps[random.Below(kGfps.size())]);
      if (!pfn) continue;
      owners.Take(*pfn, order, cpu);
      live.push_back({*pfn, order});
    } else if (!live.empty()) {
      std::swap(live[random.Below(live.size())], live.back());
      Block block = live.back();
      live.pop_back();
      if (random.OneIn(8)) {
        // Freed while a device still writes to it.
        allocator.Pin(block.pfn);
        allocator.Free(cpu, block.pfn, block.order);
        owners.Give(block.pfn, block.order, cpu);
        allocator.Unpin(cpu, block.pfn);
        continue;
      }
      owners.Give(block.pfn, block.order, cpu);
      if (random.OneIn(4)) {
        const std::optional<Block> other = exchange.Swap(block);
        if (!other) continue;
        block = *other;
      }
      allocator.Free(cpu, block.pfn, block.order);
    }
  }
  for (const Block& block : live) {
    owners.Give(block.pfn, block.order, cpu);
    allocator.Free(cpu, block.pfn, block.order);
  }
}

// Acts as the reporter: isolates free blocks, "discards" them, returns them.
void Report(PageAllocator& allocator, PageOwners& owners, Random& random) {
  Zone& zone = *allocator.zones()[0];
  std::vector<IsolatedBlock> isolated;
  {
    LockHolder hold(zone.lock());
    std::vector<Pfn> free;
    const Order order(static_cast<int>(random.Below(10)));
    for (int type = 0; type < kRequestTypes; ++type) {
      zone.ForEachFreeBlock(order, static_cast<MigrateType>(type),
                            [&](Pfn pfn) { free.push_back(pfn); });
    }
    for (const Pfn pfn : free) {
      if (isolated.size() == 4) break;
      if (auto block = zone.Isolate(pfn)) isolated.push_back(std::move(*block));
    }
  }
  for (const IsolatedBlock& block : isolated) {
    owners.Take(block.pfn(), block.order(), PageOwners::kReporter);
  }
  for (IsolatedBlock& block : isolated) {
    owners.Give(block.pfn(), block.order(), PageOwners::kReporter);
    LockHolder hold(zone.lock());
    zone.Return(std::move(block));
  }
}

class CountingObserver final : public FreeBlockObserver {
 public:
  // Guarded by the zone's lock, so a plain counter suffices.
  bool OnBlockFreed(Zone&, Pfn, Order) override { return ++told_ % 8 == 0; }
  void Wake() override { wakes_.fetch_add(1); }
  int wakes() const { return wakes_.load(); }

 private:
  uint64_t told_ = 0;
  std::atomic<int> wakes_{0};
};

TEST(AllocatorThreadsTest, NoPageIsHandedOutTwice) {
  const auto allocator = MakeAllocator();
  PageOwners owners(Pfn(0), Pfn(kPages));
  BlockExchange exchange;
  CountingObserver observer;
  allocator->SetObserver(&observer, Order(2));

  std::atomic<int> running{kCpus};
  std::vector<std::thread> vcpus;
  for (int cpu = 0; cpu < kCpus; ++cpu) {
    vcpus.emplace_back([&, cpu] {
      RunVcpu(*allocator, owners, exchange, cpu);
      running.fetch_sub(1);
    });
  }
  Random random(100);
  for (uint64_t round = 0; running.load() > 0; ++round) {
    Report(*allocator, owners, random);
    if (round % 16 == 0) allocator->DrainPerCpuPages();
    if (round % 64 == 0) {
      const absl::Status status = allocator->CheckInvariants();
      EXPECT_TRUE(status.ok()) << status;
    }
  }
  for (std::thread& vcpu : vcpus) vcpu.join();
  if (const auto left = exchange.Take()) {
    allocator->Free(0, left->pfn, left->order);
  }
  allocator->SetObserver(nullptr);
  allocator->DrainPerCpuPages();

  EXPECT_FALSE(owners.handed_out_twice());
  EXPECT_GT(observer.wakes(), 0);
  const absl::Status status = allocator->CheckInvariants();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(allocator->zones()[0]->free_blocks(kMaxOrder), 1);
}

// A vCPU is meant for one thread at a time; two threads at once must be slow at
// worst, not wrong.
TEST(AllocatorThreadsTest, ThreadsMayShareACpu) {
  const auto allocator = MakeAllocator();
  PageOwners owners(Pfn(0), Pfn(kPages));
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      Random random(static_cast<uint64_t>(i));
      for (int step = 0; step < kSteps; ++step) {
        const std::optional<Pfn> pfn = allocator->Allocate(0, Order(0));
        if (!pfn) continue;
        owners.Take(*pfn, Order(0), i);
        owners.Give(*pfn, Order(0), i);
        allocator->Free(0, *pfn, Order(0));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(owners.handed_out_twice());
  allocator->DrainPerCpuPages();
  EXPECT_EQ(allocator->zones()[0]->free_blocks(kMaxOrder), 1);
}

// While one thread splits or merges a block, other threads must not see too
// little memory. Each thread holds at most one of the many blocks.
TEST(AllocatorThreadsTest, NoAllocationFailsWhileEnoughIsFree) {
  for (const int order : {0, 1, 5}) {
    const auto allocator =
        PageAllocator::Create(
            {.memory = {{Pfn(0), Pfn(kPages)}},
             .cpus = 2,
             .min_free_kbytes = 0,
             .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 0}})
            .value();
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (int cpu = 0; cpu < 2; ++cpu) {
      threads.emplace_back([&, cpu] {
        for (int step = 0; step < kSteps; ++step) {
          if (const auto pfn = allocator->Allocate(cpu, Order(order))) {
            allocator->Free(cpu, *pfn, Order(order));
          } else {
            failures.fetch_add(1);
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(failures.load(), 0) << Order(order);
  }
}

// Two vCPUs allocate all memory: blocks that one has cached on its list are
// drained for the other in the end.
TEST(AllocatorThreadsTest, AllMemoryIsHadBetweenTwo) {
  for (const KernelVersion lists :
       {KernelVersion::kV5_3, KernelVersion::kV6_1, KernelVersion::kV6_12}) {
    for (int round = 0; round < 50; ++round) {
      const auto allocator =
          PageAllocator::Create(
              {.memory = {{Pfn(0), Pfn(kPages)}},
               .cpus = 2,
               .min_free_kbytes = 0,
               .per_cpu_lists = lists,
               .per_cpu_limits = PerCpuLimits{.batch = 63, .high = 378}})
              .value();
      std::vector<std::thread> threads;
      for (int cpu = 0; cpu < 2; ++cpu) {
        threads.emplace_back([&, cpu] {
          for (uint64_t page = 0; page < kPages / 2; ++page) {
            EXPECT_TRUE(allocator->Allocate(cpu, Order(0), kGfpAtomic));
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      EXPECT_EQ(allocator->Counts().allocated(), PageCount(kPages));
    }
  }
}

// Two vCPUs hold at most one of four blocks of 2 MiB each: one is always free,
// if only on the other's list.
TEST(AllocatorThreadsTest, NoHugePageIsRefusedWhileOneIsFreeAnywhere) {
  for (const KernelVersion lists :
       {KernelVersion::kV5_3, KernelVersion::kV6_1, KernelVersion::kV6_12}) {
    for (const Gfp& gfp : {kGfpUser, kGfpAtomic}) {
      const auto allocator =
          PageAllocator::Create(
              {.memory = {{Pfn(0), Pfn(2048)}},
               .cpus = 2,
               .min_free_kbytes = 0,
               .per_cpu_lists = lists,
               .per_cpu_limits = PerCpuLimits{.batch = 63, .high = 4096}})
              .value();
      std::atomic<int> failures{0};
      std::vector<std::thread> threads;
      for (int cpu = 0; cpu < 2; ++cpu) {
        threads.emplace_back([&, cpu] {
          for (int step = 0; step < kSteps / 10; ++step) {
            const auto pfn = allocator->Allocate(cpu, kPageblockOrder, gfp);
            if (!pfn) {
              failures.fetch_add(1);
              continue;
            }
            allocator->Free(cpu, *pfn, kPageblockOrder);
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      EXPECT_EQ(failures.load(), 0)
          << kKernelVersionNames[static_cast<size_t>(lists)] << ", "
          << (gfp.may_reclaim ? "may wait" : "atomic");
    }
  }
}

}  // namespace
}  // namespace guestmm::allocator_threads_test
