// A pinned block belongs to a device as well as to its owner: freed or not,
// none of its pages is free, cached or isolated before the last pin is dropped.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::pin_test {
namespace {

std::unique_ptr<PageAllocator> MakePinAllocator(
    int cpus = 1, PerCpuLimits limits = kNoCache,
    KernelVersion lists = KernelVersion::kV5_3) {
  return MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                        .cpus = cpus,
                        .max_order = Order(4),
                        .section_order = Order(4),
                        .min_free_kbytes = 0,
                        .per_cpu_lists = lists,
                        .per_cpu_limits = limits});
}

PageState StateOf(const PageAllocator& allocator, Pfn pfn) {
  return allocator.pages().Get(pfn).state;
}

TEST(PinTest, APinnedBlockIsStillItsOwners) {
  const auto allocator = MakePinAllocator();
  const Pfn pfn = *allocator->Allocate(0, Order(0));
  allocator->Pin(pfn);
  EXPECT_EQ(allocator->pages().pins(pfn), 1);
  allocator->Unpin(0, pfn);
  EXPECT_EQ(allocator->pages().pins(pfn), 0);
  EXPECT_EQ(StateOf(*allocator, pfn), PageState::kAllocated);
  allocator->Free(0, pfn, Order(0));
  EXPECT_EQ(allocator->Counts().free, PageCount(64));
}

// Through a per-CPU list, and directly to the zone.
TEST(PinTest, FreedWhilePinnedItIsFreeOnlyAfterTheLastPin) {
  for (const int order : {0, 3}) {
    SCOPED_TRACE(Order(order));
    const auto allocator = MakePinAllocator();
    const Pfn pfn = *allocator->Allocate(0, Order(order));
    allocator->Pin(pfn);
    allocator->Pin(pfn);
    allocator->Free(0, pfn, Order(order));
    EXPECT_EQ(StateOf(*allocator, pfn), PageState::kAllocated);
    EXPECT_EQ(allocator->vmstat().pgfree, 0);
    allocator->Unpin(0, pfn);
    EXPECT_EQ(StateOf(*allocator, pfn), PageState::kAllocated);
    ExpectInvariants(*allocator);
    allocator->Unpin(0, pfn);
    EXPECT_EQ(allocator->Counts().free, PageCount(64));
    EXPECT_EQ(allocator->vmstat().pgfree, Order(order).pages().value());
    ExpectInvariants(*allocator);
  }
}

TEST(PinTest, ItGoesToTheListsOfTheVcpuThatUnpinsIt) {
  const auto allocator =
      MakePinAllocator(2, PerCpuLimits{.batch = 1, .high = 8});
  const Zone& zone = allocator->zone(0, ZoneType::kDma);
  const Pfn pfn = *allocator->Allocate(0, Order(0));
  allocator->Pin(pfn);
  allocator->Free(0, pfn, Order(0));
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
  allocator->Unpin(1, pfn);
  EXPECT_EQ(allocator->per_cpu_pages(1, zone).cached_pages(), PageCount(1));
  EXPECT_EQ(allocator->per_cpu_pages(0, zone).cached_pages(), PageCount(0));
  // It is also the first one to be allocated.
  EXPECT_EQ(allocator->Allocate(1, Order(0)), pfn);
}

TEST(PinTest, WithTheListsOf6_1SmallBlocksAreCachedWhenUnpinned) {
  const auto allocator = MakePinAllocator(
      1, PerCpuLimits{.batch = 1, .high = 40}, KernelVersion::kV6_1);
  const Pfn pfn = *allocator->Allocate(0, Order(2));
  allocator->Pin(pfn);
  allocator->Free(0, pfn, Order(2));
  EXPECT_EQ(allocator->Counts().allocated(), PageCount(4));
  allocator->Unpin(0, pfn);
  EXPECT_EQ(StateOf(*allocator, pfn), PageState::kCached);
  ExpectInvariants(*allocator);
}

TEST(PinTest, ABlockCanBePinnedAgainWhenItsNextOwnerHasIt) {
  const auto allocator = MakePinAllocator();
  const Pfn first = *allocator->Allocate(0, Order(0));
  allocator->Pin(first);
  allocator->Free(0, first, Order(0));
  allocator->Unpin(0, first);
  ASSERT_EQ(allocator->Allocate(0, Order(0)), first);
  EXPECT_EQ(allocator->pages().pins(first), 0);
  allocator->Pin(first);
  allocator->Unpin(0, first);
  allocator->Free(0, first, Order(0));
  EXPECT_EQ(allocator->Counts().free, PageCount(64));
}

TEST(PinDeathTest, PinOfWhatIsNotAllocated) {
  const auto allocator = MakePinAllocator();
  EXPECT_DEATH(allocator->Pin(Pfn(0)), "pin of pfn 0x0, which is free");
  const Pfn block = *allocator->Allocate(0, Order(2));
  EXPECT_DEATH(allocator->Pin(block + PageCount(1)), "which is tail");
  EXPECT_DEATH(allocator->Pin(Pfn(1 << 20)), "which is offline");
}

TEST(PinDeathTest, PinOfWhatItsOwnerFreed) {
  const auto allocator = MakePinAllocator();
  const Pfn pfn = *allocator->Allocate(0, Order(0));
  allocator->Pin(pfn);
  allocator->Free(0, pfn, Order(0));
  EXPECT_DEATH(allocator->Pin(pfn), "pin of");
}

TEST(PinDeathTest, UnpinOfWhatIsNotPinned) {
  const auto allocator = MakePinAllocator();
  const Pfn pfn = *allocator->Allocate(0, Order(0));
  EXPECT_DEATH(allocator->Unpin(0, pfn), "which is not pinned");
  EXPECT_DEATH(allocator->Unpin(0, Pfn(1 << 20)), "which is not pinned");
}

TEST(PinDeathTest, FreeingTwiceWhilePinned) {
  for (const int order : {0, 3}) {
    const auto allocator = MakePinAllocator();
    const Pfn pfn = *allocator->Allocate(0, Order(order));
    allocator->Pin(pfn);
    allocator->Free(0, pfn, Order(order));
    EXPECT_DEATH(allocator->Free(0, pfn, Order(order)), "free of");
  }
}

TEST(PinDeathTest, FreeingAPinnedBlockAtAnotherOrder) {
  const auto allocator = MakePinAllocator();
  const Pfn pfn = *allocator->Allocate(0, Order(3));
  allocator->Pin(pfn);
  EXPECT_DEATH(allocator->Free(0, pfn, Order(0)), "free of");
  EXPECT_DEATH(allocator->Free(0, pfn, Order(2)), "free of");
}

// Random programs -------------------------------------------------------------

void RunRandomProgram(KernelVersion lists, uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  const auto allocator =
      MakePinAllocator(2, PerCpuLimits{.batch = 2, .high = 4}, lists);
  struct Block {
    Order order;
    int pins = 0;
    bool freed = false;
  };
  std::map<Pfn, Block> blocks;
  std::optional<IsolatedBlock> isolated;
  const auto any = [&] {
    return std::next(blocks.begin(),
                     static_cast<ptrdiff_t>(random.Below(blocks.size())));
  };
  for (int step = 0; step < 500; ++step) {
    const int cpu = static_cast<int>(random.Below(2));
    switch (random.Below(8)) {
      case 0:
      case 1:
      case 2: {
        const Order order(random.OneIn(2) ? 0
                                          : static_cast<int>(random.Below(4)));
        if (const auto pfn = allocator->Allocate(cpu, order)) {
          ASSERT_FALSE(blocks.contains(*pfn))
              << *pfn << " was handed out twice";
          blocks[*pfn] = {.order = order};
        }
        break;
      }
      case 3:
        if (blocks.empty()) break;
        if (const auto at = any(); !at->second.freed) {
          allocator->Free(cpu, at->first, at->second.order);
          at->second.freed = true;
          if (at->second.pins == 0) blocks.erase(at);
        }
        break;
      case 4:
        if (blocks.empty()) break;
        if (const auto at = any(); !at->second.freed) {
          allocator->Pin(at->first);
          ++at->second.pins;
        }
        break;
      case 5:
        if (blocks.empty()) break;
        if (const auto at = any(); at->second.pins > 0) {
          allocator->Unpin(cpu, at->first);
          if (--at->second.pins == 0 && at->second.freed) blocks.erase(at);
        }
        break;
      case 6:
        if (isolated) {
          Return(*std::move(isolated));
          isolated.reset();
        } else {
          Zone& zone = allocator->zone(0, ZoneType::kDma);
          LockHolder hold(zone.lock());
          std::optional<Pfn> free;
          zone.ForEachFreeBlock(Order(static_cast<int>(random.Below(5))),
                                MigrateType::kMovable,
                                [&](Pfn pfn) { free = pfn; });
          if (free) {
            if (auto block = zone.Isolate(*free)) {
              isolated.emplace(*std::move(block));
            }
          }
        }
        break;
      default:
        allocator->DrainPerCpuPages();
    }
    PageCount held;
    for (const auto& [pfn, block] : blocks) {
      held += block.order.pages();
      ASSERT_EQ(allocator->pages().Get(pfn),
                (PageInfo{PageState::kAllocated, block.order}))
          << "step " << step;
      ASSERT_EQ(allocator->pages().pins(pfn),
                static_cast<uint64_t>(block.pins));
    }
    // All blocks neither held nor pinned are free.
    ASSERT_EQ(allocator->Counts().allocated(), held) << "step " << step;
    ASSERT_EQ(allocator->CheckInvariants(), absl::OkStatus());
  }
  if (isolated) Return(*std::move(isolated));
}

TEST(PinTest, NoPinnedPageIsEverFreeCachedOrIsolated) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    RunRandomProgram(KernelVersion::kV5_3, seed);
    RunRandomProgram(KernelVersion::kV6_1, seed);
    RunRandomProgram(KernelVersion::kV6_12, seed);
  }
}

// Threads

// Waits for the other thread, which is about to arrive; spins for a while
// before yielding, so that both continue at the same time.
void WaitFor(const std::atomic<int>& turn, int wanted) {
  for (int spins = 0; turn.load(std::memory_order_acquire) != wanted; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

// Spins for a few instructions.
void Dawdle(uint64_t turns) {
  std::atomic<uint64_t> count{0};
  while (count.load(std::memory_order_relaxed) < turns) {
    count.fetch_add(1, std::memory_order_relaxed);
  }
}

// The owner frees while the device unpins: the later of the two frees the
// block.
TEST(PinThreadsTest, TheOwnerFreesWhileTheDeviceUnpins) {
  for (const int order : {0, 3}) {
    const auto allocator =
        MakePinAllocator(2, PerCpuLimits{.batch = 2, .high = 4});
    const int kRounds = order == 0 ? 2000 : 500;
    Pfn pfn;
    // Odd: the block is pinned, and both may begin. Even: both have finished.
    std::atomic<int> turn{0};
    std::thread device([&] {
      Random random(1);
      for (int round = 0; round < kRounds; ++round) {
        WaitFor(turn, 2 * round + 1);
        Dawdle(random.Below(8));
        allocator->Unpin(1, pfn);
        turn.store(2 * round + 2, std::memory_order_release);
      }
    });
    Random random(2);
    for (int round = 0; round < kRounds; ++round) {
      pfn = allocator->Allocate(0, Order(order)).value();
      allocator->Pin(pfn);
      turn.store(2 * round + 1, std::memory_order_release);
      Dawdle(random.Below(32));
      allocator->Free(0, pfn, Order(order));
      WaitFor(turn, 2 * round + 2);
    }
    device.join();
    allocator->DrainPerCpuPages();
    EXPECT_EQ(allocator->Counts().free, PageCount(64)) << Order(order);
    ExpectInvariants(*allocator);
  }
}

}  // namespace
}  // namespace guestmm::pin_test
