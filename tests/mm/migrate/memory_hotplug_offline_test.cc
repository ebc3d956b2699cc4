// Offlining memory, and its refusal: pages in use, cached, or in flight.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "tests/mm/migrate/memory_hotplug_testing.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::memory_hotplug_offline_test {
namespace {

// The state that a refusal must restore.
struct Snapshot {
  PageCounts counts;
  std::array<uint64_t, kMigrateTypes> pageblocks;
  std::vector<uint64_t> free_blocks;

  explicit Snapshot(Zone& zone, const PageAllocator& allocator)
      : counts(allocator.Counts()) {
    LockHolder hold(zone.lock());
    pageblocks = zone.PageblocksByType();
    for (int order = 0; order <= 3; ++order) {
      for (int type = 0; type < kMigrateTypes; ++type) {
        uint64_t blocks = 0;
        zone.ForEachFreeBlock(Order(order), static_cast<MigrateType>(type),
                              [&](Pfn) { ++blocks; });
        free_blocks.push_back(blocks);
      }
    }
  }
  void ExpectSame(const Snapshot& now) const {
    EXPECT_EQ(now.counts.managed, counts.managed);
    EXPECT_EQ(now.counts.free, counts.free);
    EXPECT_EQ(now.counts.offlining, counts.offlining);
    EXPECT_EQ(now.counts.isolated, counts.isolated);
    EXPECT_EQ(now.pageblocks, pageblocks);
    EXPECT_EQ(now.free_blocks, free_blocks);
  }
};

// Pageblocks of several types, and one page in use in the middle.
TEST(MemoryHotplugOfflineTest, APageInUseIsNamedAndAllIsPutBack) {
  HotplugWorld world;
  PageAllocator& allocator = *world.allocator;
  Zone& zone = allocator.zone(0, ZoneType::kDma);
  const std::vector<Pfn> all = TakeAll(allocator, 0, Order(0), kGfpDma);
  ASSERT_EQ(all.size(), 32);
  FreeAll(allocator, 0, all, Order(0));
  const Pfn kernel = *allocator.Allocate(0, Order(0), kGfpDma);
  const Pfn cache = *allocator.Allocate(0, Order(0), kGfpReclaimable);
  const Pfn user = *allocator.Allocate(0, Order(0), kGfpUser);
  const Pfn first = std::min({kernel, cache, user});
  const Snapshot before(zone, allocator);

  world.Expect(world.hotplug.Offline(Section(0, 2)),
               absl::StatusCode::kFailedPrecondition,
               absl::StrFormat("memory of pages [0x0, 0x20): pfn 0x%x is in "
                               "use: allocated",
                               first.value()));
  EXPECT_EQ(world.StateOf(0), "online");
  before.ExpectSame(Snapshot(zone, allocator));

  // Free lists and per-CPU lists still work.
  const std::vector<Pfn> rest = TakeAll(allocator, 0, Order(0), kGfpDma);
  EXPECT_EQ(rest.size(), 29);
  FreeAll(allocator, 0, rest, Order(0));
  for (const Pfn pfn : {kernel, cache, user}) allocator.Free(0, pfn, Order(0));
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, APinnedPageIsInUseUntilItIsUnpinned) {
  HotplugWorld world;
  const Pfn pfn = *world.allocator->Allocate(0, Order(2));
  world.allocator->Pin(pfn);
  world.allocator->Free(0, pfn, Order(2));
  const PfnRange section = {pfn.AlignDown(kSection),
                            pfn.AlignDown(kSection) + kSection.pages()};
  world.Expect(world.hotplug.Offline(section),
               absl::StatusCode::kFailedPrecondition, "is in use");
  world.allocator->Unpin(0, pfn);
  EXPECT_EQ(world.hotplug.Offline(section), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, CachedPagesAreDrained) {
  for (const KernelVersion lists :
       {KernelVersion::kV5_3, KernelVersion::kV6_1}) {
    PageAllocatorOptions options = HotplugOptions({PagesFrom(Pfn(0), 32)});
    options.cpus = 2;
    options.per_cpu_lists = lists;
    options.per_cpu_limits = PerCpuLimits{.batch = 8, .high = 32};
    HotplugWorld world(options);
    for (int cpu = 0; cpu < 2; ++cpu) {
      const Pfn pfn = *world.allocator->Allocate(cpu, Order(0));
      world.allocator->Free(cpu, pfn, Order(0));
    }
    ASSERT_EQ(world.allocator->Counts().cached, PageCount(16));
    EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
    EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
    EXPECT_EQ(world.allocator->Counts().managed, PageCount(0));
  }
}

TEST(MemoryHotplugOfflineTest, PerCpuListsWorkOnAfterARefusal) {
  PageAllocatorOptions options = HotplugOptions({PagesFrom(Pfn(0), 32)});
  options.per_cpu_limits = PerCpuLimits{.batch = 4, .high = 8};
  HotplugWorld world(options);
  const Pfn pfn = *world.allocator->Allocate(0, Order(0));
  ASSERT_EQ(world.allocator->Counts().cached, PageCount(3));
  EXPECT_FALSE(world.hotplug.Offline(Section(pfn.value() / 16)).ok());
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
  world.allocator->Free(0, pfn, Order(0));
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(1));
  EXPECT_EQ(world.allocator->Allocate(0, Order(0)), pfn);
  EXPECT_EQ(TakeAll(*world.allocator, 0, Order(0)).size(), 31);
}

// The page in use is freed while the drain runs: it is not cached on a per-CPU
// list, and cannot be allocated any more.
TEST(MemoryHotplugOfflineTest, WhatIsFreedMeanwhileStaysIsolated) {
  PageAllocatorOptions options = HotplugOptions({PagesFrom(Pfn(0), 32)});
  options.per_cpu_limits = PerCpuLimits{.batch = 4, .high = 8};
  HotplugWorld world(options);
  PageAllocator& allocator = *world.allocator;
  Listener listener;
  const Pfn pfn = *allocator.Allocate(0, Order(0));
  const Pfn block = *allocator.Allocate(0, Order(2));
  ASSERT_EQ(allocator.Counts().cached, PageCount(3));
  bool freed = false;
  listener.on_wake = [&] {
    if (std::exchange(freed, true)) return;
    allocator.Free(0, pfn, Order(0));
    allocator.Free(0, block, Order(2));
    EXPECT_EQ(allocator.Counts().cached, PageCount(0));
    EXPECT_EQ(allocator.Counts().offlining, PageCount(32));
    EXPECT_EQ(allocator.Counts().free, PageCount(0));
    EXPECT_FALSE(allocator.Allocate(0, Order(0)));
    EXPECT_FALSE(allocator.Allocate(0, Order(3), kGfpAtomic));
    ExpectInvariants(allocator);
  };
  allocator.SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
  EXPECT_TRUE(freed);
  allocator.SetObserver(nullptr);
}

TEST(MemoryHotplugOfflineTest, OtherMemoryIsToBeHadMeanwhile) {
  PageAllocatorOptions options = HotplugOptions({PagesFrom(Pfn(0), 32)});
  VirtualTime time(1);
  HotplugWorld world(options, &time);
  PageAllocator& allocator = *world.allocator;
  std::optional<IsolatedBlock> block(Isolate(allocator, Pfn(0)));
  Work work([&] {
    EXPECT_EQ(allocator.Counts().offlining, PageCount(8));
    EXPECT_EQ(TakeAll(allocator, 0, Order(0)).size(), 16);
    Return(*std::move(block));
    EXPECT_EQ(allocator.Counts().offlining, PageCount(16));
  });
  time.Queue(work, Nanoseconds(10));
  EXPECT_EQ(world.hotplug.Offline(Section(0)), absl::OkStatus());
  EXPECT_EQ(allocator.Counts().allocated(), PageCount(16));
}

TEST(MemoryHotplugOfflineTest, APageInUseIsRefusedWithoutAWaitForTheHost) {
  VirtualTime time(1);
  HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 32)}), &time);
  IsolatedBlock block = Isolate(*world.allocator, Pfn(0));
  const Pfn pfn = *world.allocator->Allocate(0, Order(0));
  world.Expect(world.hotplug.Offline(Section(0, 2)),
               absl::StatusCode::kFailedPrecondition,
               absl::StrFormat("pfn 0x%x is in use", pfn.value()));
  Return(std::move(block));
}

TEST(MemoryHotplugOfflineTest, BlocksInFlightAreWaitedFor) {
  VirtualTime time(1);
  HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 32)}), &time);
  std::optional<IsolatedBlock> first(Isolate(*world.allocator, Pfn(16)));
  std::optional<IsolatedBlock> second(Isolate(*world.allocator, Pfn(24)));
  Work return_first([&] { Return(*std::move(first)); });
  Work return_second([&] { Return(*std::move(second)); });
  time.Queue(return_first, Nanoseconds(10));
  time.Queue(return_second, Nanoseconds(20));
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(time.Now(), Nanoseconds(20));
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(16));
}

// Memory that is being offlined is no longer reported to the host.
TEST(MemoryHotplugOfflineTest, NoBlockOnItsWayOfflineIsIsolated) {
  VirtualTime time(1);
  HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 32)}), &time);
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  std::optional<IsolatedBlock> block(Isolate(*world.allocator, Pfn(16)));
  Work work([&] {
    {
      LockHolder hold(zone.lock());
      EXPECT_EQ(zone.FreeBlockAt(Pfn(24)), Order(3));
      EXPECT_FALSE(zone.Isolate(Pfn(24)).has_value());
    }
    Return(*std::move(block));
  });
  time.Queue(work);
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, ABlockThatDoesNotComeBackIsNamed) {
  VirtualTime time(1);
  for (Workqueue* const queue :
       {static_cast<Workqueue*>(nullptr), static_cast<Workqueue*>(&time)}) {
    HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 32)}), queue);
    Zone& zone = world.allocator->zone(0, ZoneType::kDma);
    IsolatedBlock block = Isolate(*world.allocator, Pfn(24));
    const Snapshot before(zone, *world.allocator);
    world.Expect(world.hotplug.Offline(Section(1)),
                 absl::StatusCode::kFailedPrecondition,
                 "memory of pages [0x10, 0x20): pfn 0x18 is isolated for the "
                 "host, which does not return it");
    before.ExpectSame(Snapshot(zone, *world.allocator));
    Return(std::move(block));
    EXPECT_EQ(world.allocator->Counts().free, PageCount(32));
    EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  }
}

// A work cannot wait for its own queue.
TEST(MemoryHotplugOfflineTest, InAWorkABlockInFlightIsNotWaitedFor) {
  VirtualTime time(1);
  HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 32)}), &time);
  std::optional<IsolatedBlock> block(Isolate(*world.allocator, Pfn(24)));
  absl::Status status;
  Work offline([&] { status = world.hotplug.Offline(Section(1)); });
  Work give_back([&] { Return(*std::move(block)); });
  time.Queue(offline);
  time.Queue(give_back, Nanoseconds(1));
  time.RunUntilIdle();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, AllOfTheMemoryMayGo) {
  HotplugWorld world;
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(0));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0), kGfpAtomic));
  EXPECT_EQ(world.allocator->vmstat().alloc_failed, 2);
  EXPECT_EQ(world.hotplug.Online(Section(0, 2), ZoneType::kNormal),
            absl::OkStatus());
  // DMA no longer has a span.
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kNormal).managed_pages(),
            PageCount(32));
  EXPECT_TRUE(world.allocator->Allocate(0, Order(0)));
}

}  // namespace
}  // namespace guestmm::memory_hotplug_offline_test
